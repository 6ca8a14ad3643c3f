"""Modules can be imported by the names that they had before they moved."""

import subprocess
import sys
from importlib import import_module

import pytest

from lightning_dga._moved import _MOVED, new_name


def fresh(name):
    """Imports a module as if for the first time."""
    for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[loaded]
    return import_module(name)


@pytest.mark.parametrize("old", sorted(_MOVED))
def test_the_old_name_is_the_same_module_and_warns(old):
    with pytest.warns(DeprecationWarning, match=rf"lightning_dga\.{old} is lightning_dga\.{_MOVED[old]} now"):
        module = fresh(f"lightning_dga.{old}")
    assert module is import_module(f"lightning_dga.{_MOVED[old]}")
    assert module.__spec__.name == module.__name__ == f"lightning_dga.{_MOVED[old]}"


def test_modules_of_a_package_that_moved_are_not_loaded_twice():
    with pytest.warns(DeprecationWarning):
        old = fresh("lightning_dga.make_domains.histogram")
    assert old is import_module("lightning_dga.cli.domains.histogram")


def test_only_what_moved_has_a_new_name():
    assert new_name("lightning_dga.callback") == "lightning_dga.callbacks.dynamic_gradient_alignment"
    assert new_name("lightning_dga.callbacks") is None
    assert new_name("lightning_dga.nothing") is None
    with pytest.raises(ModuleNotFoundError, match=r"lightning_dga\.make_domains\.nothing"):
        import_module("lightning_dga.make_domains.nothing")


def test_a_command_runs_under_its_old_name():
    run = subprocess.run([sys.executable, "-m", "lightning_dga.make_domains", "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "tokenize" in run.stdout
