"""Makes a folder to choose settings on: targets that no result reports, from the documents of its own domains.

    python benchmarks/held_back.py --root DIR --output DIR2
    python benchmarks/held_back.py --root DIR --output DIR3 --leave-out

Every third block of ten documents of each named domain is held back and becomes `target_<domain>`. With `--leave-out`
none of these domains stays in the pool, so that the targets are far from every domain.
"""

import argparse
import shutil
from pathlib import Path

from common.blocks import split

EVERY = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of <domain>.jsonl and target_<name>.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parser.add_argument("--domains", nargs="+", default=["medicine", "film_reviews", "telephone"], metavar="NAME")
    parser.add_argument("--leave-out", action="store_true", help="leave the rest of these domains out of the pool")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for file in sorted(options.root.glob("*.jsonl")):
        if file.stem.startswith("target_"):
            continue
        if file.stem not in options.domains:
            shutil.copy(file, options.output)
            continue
        lines, held = split(file, EVERY)
        (options.output / f"target_{file.stem}.jsonl").write_text("".join(held), encoding="utf-8")
        if not options.leave_out:
            (options.output / file.name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
