"""Models whose training the callback could disturb: training is bitwise unchanged, and alignments are exact."""

import sys
from dataclasses import dataclass

import lightning as L
import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from lightning_dga import DynamicGradientAlignment
from tests.helpers.reference import alignments as reference
from tests.helpers.toys import trainer
from tests.helpers.zoo import DOMAINS, HUGGING_FACE, ZOO, gpt, mixture, sequence

STEPS, PROBES = 4, 2


class Trained(L.LightningModule):
    """Trains a model of the zoo."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.model.alignment_loss(batch).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 3e-3)


@dataclass
class Fit:
    """A model as passed to ``trainer.fit``, and the plain one for the reference."""

    make: object
    plain: object
    draw: object = sequence

    @classmethod
    def of(cls, case):
        return cls(lambda: Trained(case.prepare(case.build())), case.build, case.draw)


def compiled_module():
    # not the GPT itself: it logs in its step, which Lightning cannot compile
    return torch.compile(Trained(gpt()), backend="aot_eager")


FITS = {name: Fit.of(ZOO[name]) for name in ("gpt, checkpointed", "gpt, checkpointed reentrantly", "cnn", "gru")}
FITS |= {"gpt, compiled net": Fit.of(ZOO["gpt, compiled net"]), "gpt, compiled module": Fit(compiled_module, gpt)}
NEEDS_PEFT = pytest.mark.skipif(sys.version_info < (3, 11), reason="transformers, as pinned, needs Python 3.11")
NAMES = [*FITS, pytest.param("gpt2 with lora", marks=NEEDS_PEFT)]
FITS["gpt2 with lora"] = Fit.of(HUGGING_FACE["gpt2 with lora"])


class History(Callback):
    """The sequence of training states, and the last parameters and buffers."""

    def __init__(self):
        self.losses, self.tensors = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.tensors = [tensor.detach().clone() for tensor in tensors(pl_module)]


def tensors(module):
    return [*module.parameters(), *module.buffers()]


def run(fit, *callbacks, precision="32-true"):
    torch.compiler.reset()
    seed_everything(0, verbose=False)
    history, data = History(), mixture(fit.draw, batch_size=6)
    trainer(*callbacks, history, max_steps=STEPS, precision=precision).fit(fit.make(), datamodule=data)
    return history, data


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", NAMES)
def test_training_is_bitwise_the_same_and_alignments_are_exact(name, precision):
    fit = FITS[name]
    callback = DynamicGradientAlignment(every_n_steps=2, rule="static", probe_batch_size=PROBES)
    with_it, data = run(fit, callback, precision=precision)
    without, _ = run(fit, precision=precision)
    assert with_it.losses == without.losses
    assert len(set(without.losses)) == STEPS
    for a, b in zip(with_it.tensors, without.tensors, strict=True):
        assert torch.equal(a, b)

    plain, found = fit.plain(), callback.alignments
    with torch.no_grad():
        for own, trained in zip(tensors(plain), with_it.tensors, strict=True):
            own.copy_(trained)
    assert found.step == STEPS
    expected = reference(plain, type(plain).alignment_loss, data, STEPS // 2 - 1, PROBES, DOMAINS)
    scale = max(expected.abs().max().item(), found.target_norm**2)
    tolerance = 1e-4 if precision == "32-true" else 1e-2
    assert ((found.values - expected).abs().max() / scale).item() < tolerance
