"""What the accuracy benchmark trains: small models of the kinds that people train, and data for each kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_dga.models import GPT

VOCABULARY, LENGTH, WIDTH, CLASSES = 61, 12, 24, 6
SAMPLES = 96
Data = Callable[[int], TensorDataset]


def tokens(domain: int) -> TensorDataset:
    """Sequences that begin anywhere and go on by a step of the domain's own, with noise."""
    generator = torch.Generator().manual_seed(domain)
    start = torch.randint(VOCABULARY, (SAMPLES, 1), generator=generator)
    noise = torch.randint(3, (SAMPLES, LENGTH + 1), generator=generator)
    return TensorDataset((start + (domain + 1) * torch.arange(LENGTH + 1) + noise) % VOCABULARY)


def images(domain: int) -> TensorDataset:
    """Noise around a picture of each class, of which a domain has half."""
    generator = torch.Generator().manual_seed(domain)
    pictures = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (torch.randint(CLASSES // 2, (SAMPLES,), generator=generator) + domain) % CLASSES
    return TensorDataset(pictures[labels] + torch.randn(SAMPLES, 3, 8, 8, generator=generator), labels)


class LanguageModel(nn.Module):
    """The loss of each sequence, under any network from tokens to logits."""

    def __init__(self, net: nn.Module, *, masked: bool = False) -> None:
        super().__init__()
        self.net = net
        self.masked = masked

    def alignment_loss(self, batch: Any) -> Tensor:
        """Mean loss of each sequence's tokens, ``[n]``."""
        inputs, wanted = (batch[0][:, 1:], batch[0][:, 1:]) if self.masked else (batch[0][:, :-1], batch[0][:, 1:])
        if self.masked:
            inputs = torch.where(torch.arange(LENGTH) % 3 == 0, 0, inputs)
        logits = self.net(inputs)
        logits = getattr(logits, "logits", logits)
        return F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").mean(1)


class Classifier(nn.Module):
    """The loss of each image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def alignment_loss(self, batch: Any) -> Tensor:
        """Loss of each image, ``[n]``."""
        return F.cross_entropy(self.net(batch[0]), batch[1], reduction="none")


class Recurrent(nn.Module):
    """Tokens to logits by way of a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.rnn = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, ``[n, length, vocabulary]``."""
        return self.head(self.rnn(self.table(inputs))[0])


class Tied(nn.Module):
    """One matrix as a table at the entrance and, outside of any layer, as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, ``[n, length, vocabulary]``."""
        return F.linear(torch.tanh(self.inner(self.table(inputs))), self.table.weight)


def mlp() -> nn.Module:
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, CLASSES)))


def cnn() -> nn.Module:
    body = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return Classifier(nn.Sequential(*body, nn.Flatten(), nn.Linear(32, CLASSES)))


def gpt() -> nn.Module:
    return LanguageModel(GPT(VOCABULARY, LENGTH, d_model=WIDTH, num_layers=2, num_heads=2, dropout=0.1))


def _settings(**others: Any) -> dict[str, Any]:
    return {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **others}


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(**_settings(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=LENGTH, use_cache=False))
    return LanguageModel(GPT2LMHeadModel(config))


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    model = gpt2()
    model.net = get_peft_model(model.net, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    return model


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**_settings(**shape, max_position_embeddings=LENGTH, use_cache=False))
    return LanguageModel(LlamaForCausalLM(config))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**_settings(**shape, max_position_embeddings=LENGTH))
    return LanguageModel(BertForMaskedLM(config), masked=True)


@dataclass(frozen=True)
class Kind:
    """A model and its data."""

    build: Callable[[], nn.Module]
    data: Data = tokens


KINDS = {
    "MLP, ReLU": Kind(mlp, images),
    "CNN, BatchNorm": Kind(cnn, images),
    "GPT, dropout": Kind(gpt),
    "LSTM": Kind(lambda: LanguageModel(Recurrent(nn.LSTM))),
    "GRU": Kind(lambda: LanguageModel(Recurrent(nn.GRU))),
    "tied embedding": Kind(lambda: LanguageModel(Tied())),
    "GPT-2": Kind(gpt2),
    "GPT-2, LoRA": Kind(lora),
    "Llama": Kind(llama),
    "BERT": Kind(bert),
}
