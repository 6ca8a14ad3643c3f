"""What importing a part of the package costs: python benchmarks/imports.py [--quick] [--json FILE].

Processor time of a fresh process, less that of one that imports nothing; bytecode is compiled beforehand.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import result

PARTS = {
    "import lightning_dga": "import lightning_dga",
    **{
        f"import lightning_dga.{room}": f"import lightning_dga.{room}"
        for room in (
            "core.alignments",
            "domains",
            "report",
            "reweighting",
            "data.sampling",
            "alignment",
            "engine.reweighting_loop",
            "data.text",
            "data.loading.loader",
            "data.datamodule",
            "models",
        )
    },
    "from lightning_dga import DynamicGradientAlignment": "from lightning_dga import DynamicGradientAlignment",
    **{
        f"{command} --help": f"import sys; sys.argv = [{command!r}, '--help']\nfrom {module} import main\nmain()"
        for command, module in {
            "dga-report": "lightning_dga.cli.report",
            "dga-domains": "lightning_dga.cli.domains",
            "dga-train": "lightning_dga.cli.train",
        }.items()
    },
    "import torch": "import torch",
    "import lightning": "import lightning",
}
QUICK = ("import lightning_dga", "import lightning_dga.domains", "import torch", "dga-report --help")
LARGE = ("numpy", "torch", "lightning", "hydra")
# `--help` ends the process, so what was loaded is told on the way out
TELL = f"""import atexit, sys
atexit.register(lambda: print([name for name in {LARGE!r} if name in sys.modules], file=sys.stderr))
"""


def seconds(program: str) -> tuple[float, list[str]]:
    """Processor time of a process that runs a program, and which large packages it loaded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = os.times()
    done = subprocess.run([sys.executable, "-c", TELL + program], capture_output=True, text=True, env=environment)
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{program}\n{done.stderr}")
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent, [name for name in LARGE if repr(name) in done.stderr.splitlines()[-1]]


def measure(part: str, repeats: int) -> dict[str, Any]:
    program = PARTS[part]
    _, loaded = seconds(program)
    # neighbours in time, so that the machine's ups and downs cancel
    times = [seconds(program)[0] - seconds("")[0] for _ in range(repeats)]
    return {
        "measure": "import",
        "part": part,
        "loads": loaded,
        "value": statistics.median(times),
        "unit": "s of processor time",
        "spread": [min(times), max(times)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few parts, twice each")
    parser.add_argument("--json", type=Path, help="where the rows go")
    options = parser.parse_args()
    rows = []
    for part in QUICK if options.quick else PARTS:
        rows.append(row := measure(part, 2 if options.quick else 3))
        loads = ", ".join(row["loads"]) or "-"
        print(f"{part:52} {row['value']:6.2f} s  {row['spread'][0]:.2f} to {row['spread'][1]:.2f}  {loads}", flush=True)
    if options.json:
        result.write(options.json, "python benchmarks/imports.py", rows)


if __name__ == "__main__":
    main()
