"""What subcommands are told of a target."""

import argparse
from pathlib import Path

from lightning_dga.data.text import folder_target
from lightning_dga.domains.stage import read_summary


def add_target(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a target of a clustered corpus."""
    parser.add_argument("target", metavar="NAME", help="the target: target_NAME.jsonl in the folder of the corpus")
    add_target_set(parser)


def add_target_set(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which documents of a target count."""
    parser.add_argument(
        "--target-documents", type=int, metavar="N", help="keep N documents of the target set (data.target_documents)"
    )
    parser.add_argument("--target-seed", type=int, default=0, help="which ones (data.target_seed; %(default)s)")
    parser.add_argument("--root", type=Path, help="the folder of the corpus, where it has moved since it was embedded")


def target_set(options: argparse.Namespace, folder: Path) -> list[str]:
    """The documents that a run aligns to; none that it validates or tests on."""
    root = options.root or read_summary(folder, "embed")["settings"]["root"]
    return folder_target(
        root, options.target, target_documents=options.target_documents, target_seed=options.target_seed
    )
