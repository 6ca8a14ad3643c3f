"""The command ``dga-report``."""

import argparse
import sys
from pathlib import Path

from lightning_dga.report.page import page
from lightning_dga.report.run_folder import PAGE, WEIGHTS, RunFolderError, find_runs, read_weights
from lightning_dga.report.table import common_parent, comparison


def main(arguments: list[str] | None = None) -> None:
    """Prints a table of runs and writes a page about them; a user error gives one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="dga-report",
        description="Compares runs: prints a table, and writes an HTML page that shows which data helped.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of run folders")
    parser.add_argument("--no-page", action="store_true", help=f"only print the table; do not write {PAGE}")
    options = parser.parse_args(arguments)
    try:
        # a folder may be given together with a run in it
        runs = list(dict.fromkeys(run.resolve() for run in find_runs(options.runs)))
        print(comparison(runs))
        for run in runs:
            if left_out := read_weights(run).left_out:
                print(f"dga-report: skipped {left_out} damaged line(s) of {run / WEIGHTS}.", file=sys.stderr)
        if not options.no_page:
            _write_page(runs)
    except RunFolderError as error:
        print(f"dga-report: {error}", file=sys.stderr)
        sys.exit(1)


def _write_page(runs: list[Path]) -> None:
    path = (runs[0] if len(runs) == 1 else common_parent(runs)) / PAGE
    try:
        path.write_text(page(runs), encoding="utf-8")
    except ImportError as error:
        # a page that cannot be written is not a failure, because the table was printed
        print(f"dga-report: no page: {error}", file=sys.stderr)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}). With --no-page, only the table is printed."
        ) from error
    else:
        print(f"\nPage: {path}")
