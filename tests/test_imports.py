"""Importing a part of the package imports only what that part needs."""

import subprocess
import sys

import pytest

import lightning_dga

# in one process, so the parts that need least come first
PROGRAM = """
import sys
from importlib import import_module

for part, unneeded in {parts!r}:
    import_module(part)
    found = [name for name in unneeded if name in sys.modules]
    assert not found, f"importing {{part}} imports {{found}}"
"""
LIGHTNING = ("lightning", "pytorch_lightning", "hydra")
PARTS = [
    ("lightning_dga", ("torch", "numpy", *LIGHTNING)),
    ("lightning_dga.domains", ("torch", "sklearn", *LIGHTNING)),
    ("lightning_dga.cli.report", ("torch", "matplotlib", *LIGHTNING)),
    ("lightning_dga.reweighting", LIGHTNING),
    ("lightning_dga.data.sampling", ("torch.distributed.tensor", *LIGHTNING)),
    ("lightning_dga.data.text", LIGHTNING),
    ("lightning_dga.alignment", ("torch._dynamo", *LIGHTNING)),
]


def test_a_part_imports_only_what_it_needs():
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(parts=PARTS)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", [*lightning_dga.__all__, "data", "reweighting"])
def test_every_public_name_is_found_and_listed(name):
    assert getattr(lightning_dga, name) is not None
    assert name in dir(lightning_dga)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DynamicGradientAlignmant'"):
        _ = lightning_dga.DynamicGradientAlignmant
