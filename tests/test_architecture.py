"""The rooms keep apart, as CONTRIBUTING.md says."""

import ast
from pathlib import Path

import pytest

import lightning_dga

ROOT = Path(lightning_dga.__file__).parent
SHARED = {"atomic", "basis", "weights", "alignments", "exposure", "moments", "usual_norm", "distributed", "handover"}
SHARED |= {"_lightning", "document_digest"}
MAY_IMPORT = {
    "alignment": SHARED,
    "reweighting": SHARED,
    "data": SHARED,
    "domains": SHARED,
    "models": SHARED,
    "report": set(),
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".") for name in names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_itself_and_what_is_shared(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        ours = {parts[1] for parts in imports(file) if parts[0] == "lightning_dga" and len(parts) > 1}
        assert ours <= MAY_IMPORT[room] | {room}, f"{file} imports {ours - MAY_IMPORT[room] - {room}}"


def test_collectives_are_in_one_place():
    for file in ROOT.rglob("*.py"):
        if file.name != "distributed.py":
            assert not any(parts[:2] == ["torch", "distributed"] for parts in imports(file)), file


def test_only_the_data_module_and_the_callbacks_know_lightning():
    outside = {"_lightning.py", "callback.py", "measuring.py", "recorder.py", "progress.py", "train.py"}
    outside |= {"datamodule.py", "gpt.py", "planning.py", "preemption.py", "checkpoints.py", "config_check.py"}
    outside |= {"run_length.py", "run_lock.py", "run_logger.py", "side_files.py"}
    for file in ROOT.rglob("*.py"):
        names = {parts[0] for parts in imports(file)} | {
            p[1] for p in imports(file) if p[0] == "lightning_dga" and p[1:]
        }
        assert file.name in outside or not names & {"lightning", "pytorch_lightning", "_lightning"}, file
