"""The file that a benchmark leaves: what ran, on what machine, at what commit, and one row for each figure."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def write(file: Path, command: str, rows: list[dict[str, Any]], note: str = "") -> None:
    """Writes a result file.

    Args:
        file: Where to.
        command: What runs the benchmark again, with no paths of this machine.
        rows: Each with ``measure``, the settings that apply, ``value``, ``unit`` and the spread.
        note: What a reader has to know of how it was measured.
    """
    noted = {"note": note} if note else {}
    result = {"machine": machine(), "commit": commit(), "command": command, **noted, "rows": rows}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """The device that the benchmark ran on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {"device": device, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def processor() -> str:
    """The processor's model, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def commit() -> str:
    """The checkout's commit, marked if files were changed since."""
    return subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
