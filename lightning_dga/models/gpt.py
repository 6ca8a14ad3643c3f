"""The reference model of the recipes: a small decoder-only transformer as a LightningModule."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_dga._lightning import LightningModule
from lightning_dga.distributed import shard


class GPT(LightningModule):
    """A GPT-2-style language model: learned positions, pre-LayerNorm blocks, GELU, tied embedding.

    A batch is a LongTensor ``[batch, context_length + 1]``: each token but the last predicts the one after it. It logs
    ``train/loss``, ``val/target_loss`` and ``test/target_loss``, all in nats per token.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest input, in tokens.
        d_model: Width.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides ``d_model``.
        dropout: Probability of dropping an activation after the embedding and after each sub-layer.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Applied to matrices, not to biases, gains and embeddings.
        betas: Of AdamW.
        warmup_steps: Steps of linear warm-up.
        max_steps: Steps over which a cosine then lowers the learning rate to a tenth; ``None`` keeps it constant.
        replicas: Where it is sharded (FSDP2), over how many groups of processes that hold the same (HSDP).

    Raises:
        ValueError: If ``num_heads`` does not divide ``d_model``.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int = 128,
        d_model: int = 96,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_steps: int = 20,
        max_steps: int | None = None,
        replicas: int = 1,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"`num_heads` ({num_heads}) must divide `d_model` ({d_model}).")
        self.save_hyperparameters()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(context_length, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(d_model, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        # on no device, so that it draws no random numbers for a weight that is the embedding's
        self.head = nn.Linear(d_model, vocab_size, bias=False, device="meta")
        self.head.weight = self.token_embedding.weight
        self.val_loss = MeanMetric()
        self.test_loss = MeanMetric()
        self._initialize(d_model, num_layers)

    @override
    def configure_model(self) -> None:
        """Shards its blocks, and the rest as one, where Lightning's ``ModelParallelStrategy`` is in use (FSDP2)."""
        if self.device_mesh is not None:
            shard(self, self.blocks, self.device_mesh["data_parallel"], self.hparams["replicas"])

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token logits ``[batch, length, vocab_size]`` of tokens ``[batch, length]``."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def alignment_loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy of each sequence, ``[batch]``, in nats per token."""
        logits, following = self(batch[:, :-1]), batch[:, 1:]
        # flat, with the classes last: several times as fast as on classes in the middle
        losses = F.cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="none")
        return losses.view_as(following).mean(1)

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.alignment_loss(batch).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._evaluate(batch, self.val_loss, "val/target_loss")

    @override
    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._evaluate(batch, self.test_loss, "test/target_loss")

    @override
    def configure_optimizers(self) -> Any:
        settings = self.hparams
        matrices = [p for name, p in self.named_parameters() if p.ndim > 1 and "embedding" not in name]
        rest = [p for name, p in self.named_parameters() if p.ndim <= 1 or "embedding" in name]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
            lr=settings["learning_rate"],
            betas=tuple(settings["betas"]),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        warmup, length = self.hparams["warmup_steps"], self.hparams["max_steps"]
        if step < warmup:
            return (step + 1) / warmup
        if length is None:
            return 1.0
        progress = min((step - warmup) / max(length - warmup, 1), 1.0)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))

    def _evaluate(self, batch: Tensor, metric: MeanMetric, name: str) -> None:
        losses = self.alignment_loss(batch)
        metric.update(losses)
        self.log(name, metric, on_epoch=True, prog_bar=True, batch_size=len(losses))

    def _initialize(self, d_model: int, num_layers: int) -> None:
        # GPT-2's 0.02 is right for its width of 768; a narrow model that starts with it stays on a plateau for long
        std = 0.02 * math.sqrt(768 / d_model)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # residual branches start smaller the more of them are summed, as in GPT-2
                branches = math.sqrt(2 * num_layers) if name.endswith("project.weight") else 1.0
                nn.init.normal_(parameter, std=std / branches)


class _Block(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = _Attention(d_model, num_heads)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = _MLP(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class _Attention(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.expand = nn.Linear(d_model, 3 * d_model)
        self.project = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.expand(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.project(mixed.transpose(1, 2).reshape(batch, length, width))


class _MLP(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, 4 * d_model)
        self.project = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))
