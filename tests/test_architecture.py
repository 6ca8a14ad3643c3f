"""The rooms import one another only as CONTRIBUTING.md allows."""

import ast
from pathlib import Path

import pytest

import lightning_dga

ROOT = Path(lightning_dga.__file__).parent
# what any room may use: values, collectives, files that appear whole or not at all
SHARED = {"core", "distributed", "atomic"}
MAY_IMPORT = {
    "core": {"atomic"},
    "alignment": SHARED,
    "reweighting": SHARED,
    "data": SHARED | {"handover"},
    "domains": SHARED,
    "engine": SHARED | {"alignment", "reweighting"},
    "callbacks": SHARED | {"handover", "alignment", "reweighting", "engine", "report"},
    "models": SHARED,
    "report": set(),
}
# a data module and a model are Lightning's own kinds of class
KNOW_LIGHTNING = {"data/datamodule.py", "models/gpt.py"}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".") for name in names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_itself_and_what_it_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        ours = {parts[1] for parts in imports(file) if parts[0] == "lightning_dga" and len(parts) > 1}
        extra = ours - MAY_IMPORT[room] - {room, "_lightning", "_lazy"}
        assert not extra, f"{file} imports {extra}"


def test_every_module_stands_in_a_room():
    assert {file.stem for file in ROOT.glob("*.py")} == {
        "__init__",
        "_lazy",
        "_lightning",
        "_moved",
        "atomic",
        "distributed",
        "handover",
    }


def test_collectives_are_in_one_place():
    for file in ROOT.rglob("*.py"):
        if file.name != "distributed.py":
            assert not any(parts[:2] == ["torch", "distributed"] for parts in imports(file)), file


def test_only_callbacks_and_commands_know_lightning():
    for file in ROOT.rglob("*.py"):
        place = file.relative_to(ROOT)
        if place.parts[0] in {"callbacks", "cli", "_lightning.py"} or place.as_posix() in KNOW_LIGHTNING:
            continue
        used = {part for parts in imports(file) for part in parts[:2]}
        assert not used & {"lightning", "pytorch_lightning", "_lightning"}, file
