"""Modules can be imported by the names that they had before they moved."""

import subprocess
import sys
from importlib import import_module

import pytest

from lightning_dga._moved import _MOVED, new_name

# to a folder of their own room
DEEPER = {
    "alignment.estimators": "auto backward batched finite_difference in_step losses rehearsal self_test",
    "alignment.gradients": "gradient preconditioner sums target",
    "alignment.per_sample": "layers plan samples watches",
    "alignment.probing": "compiled evaluation_loss isolation loss modes origins probes snapshots writes",
    "data.loading": "batches generators loader window workers",
    "data.sampling": "composition multinomial permutation quota segment",
    "data.streaming": "digest hub_streams passes reading resumable sharded_streams streams",
    "data.text.builders": "bin_builder clustered folder_corpus mixture recipes standard_library",
    "data.text.readers": "document_stream documents files fingerprint json_lines listing parquet plain_text split",
    "data.text.tokens": "encoder packed_stream packing token_bin tokenized_corpus tokenizer",
}
MOVED = _MOVED | {
    f"{folder.rpartition('.')[0]}.{name}": f"{folder}.{name}"
    for folder, names in DEEPER.items()
    for name in names.split()
}


def fresh(name):
    """Imports a module as if for the first time."""
    for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[loaded]
    return import_module(name)


@pytest.mark.parametrize("old", sorted(MOVED))
def test_the_old_name_is_the_same_module_and_warns(old):
    with pytest.warns(DeprecationWarning, match=rf"lightning_dga\.{old} is lightning_dga\.{MOVED[old]} now"):
        module = fresh(f"lightning_dga.{old}")
    assert module is import_module(f"lightning_dga.{MOVED[old]}")
    assert module.__spec__.name == module.__name__ == f"lightning_dga.{MOVED[old]}"


def test_modules_of_a_package_that_moved_are_not_loaded_twice():
    with pytest.warns(DeprecationWarning):
        old = fresh("lightning_dga.make_domains.histogram")
    assert old is import_module("lightning_dga.cli.domains.histogram")


def test_only_what_moved_has_a_new_name():
    assert new_name("lightning_dga.callback") == "lightning_dga.callbacks.dynamic_gradient_alignment"
    assert new_name("lightning_dga.callbacks") is None
    assert new_name("lightning_dga.nothing") is None
    assert new_name("lightning_dga.data.probes") is None  # although there is a module of this name in another room
    assert new_name("lightning_dga.data.text") is None
    with pytest.raises(ModuleNotFoundError, match=r"lightning_dga\.make_domains\.nothing"):
        import_module("lightning_dga.make_domains.nothing")


def test_a_command_runs_under_its_old_name():
    run = subprocess.run([sys.executable, "-m", "lightning_dga.make_domains", "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "tokenize" in run.stdout
