"""The command ``dga-report``."""

import argparse
import sys
from pathlib import Path

from lightning_dga.report.run_folder import RunFolderError, find_runs
from lightning_dga.report.table import comparison


def main(arguments: list[str] | None = None) -> None:
    """Prints finished runs side by side."""
    parser = argparse.ArgumentParser(prog="dga-report", description="Compares finished runs of dga-train.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of run folders")
    options = parser.parse_args(arguments)
    try:
        print(comparison(find_runs(options.runs)))
    except RunFolderError as error:
        print(f"dga-report: {error}", file=sys.stderr)
        sys.exit(1)
