"""The guides' own commands, made small: two devices for eight, CPUs for GPUs, few steps, little text."""

import re
import shlex
import sys
from pathlib import Path

from tests.helpers.commands import QUICK

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def commands(guide: str) -> list[str]:
    """The commands of a guide, in its order."""
    text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def small(command: str, corpora: Path, *overrides: str, devices: int = 2, nodes: int = 2) -> list[str]:
    """A command of a guide as a test runs it."""
    command = command.replace("DIR", str(corpora)).replace("NAME", "weather")
    command = re.sub(r"devices=8|nproc-per-node=8", lambda found: found[0].replace("8", str(devices)), command)
    command = command.replace("num_nodes=4", f"num_nodes={nodes}")
    words = shlex.split(command)
    program = {"dga-train": ["-m", "lightning_dga.cli.train"], "torchrun": ["-m", "torch.distributed.run"]}
    if words[0] in program:
        words[:1] = [sys.executable, *program[words[0]]]
    trains = "lightning_dga.cli.train" in words or words[0] == "sbatch"
    return [*words, *(["trainer.accelerator=cpu", "trainer.precision=32-true", *QUICK] if trains else []), *overrides]
