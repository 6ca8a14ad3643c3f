"""Draws the README's picture, `docs/images/mixture.svg`: the first chart of the report page of one run of the demo.

make demo
.venv/bin/python benchmarks/mixture_picture.py runs/demo/dga_seed0
"""

import sys
from pathlib import Path

from lightning_dga.report import read_metrics, read_weights
from lightning_dga.report.plots import weights_over_steps

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "mixture.svg"


def main(run: Path) -> None:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    svg = weights_over_steps(read_weights(run), read_metrics(run)["steps"])
    PICTURE.write_text(svg, encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/mixture_picture.py RUN, where RUN is a run folder that has finished")
    main(Path(sys.argv[1]))
