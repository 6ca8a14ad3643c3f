"""Arguments of several subcommands that select a target."""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.cli.domains.arguments import seed
from lightning_dga.data.text import folder_target
from lightning_dga.domains import Clusters, DomainsError
from lightning_dga.domains.resumable_stage import read_summary


def add_target(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a target of a clustered corpus."""
    parser.add_argument(
        "target", metavar="NAME", help="target, stored as target_NAME.jsonl in the folder of the corpus"
    )
    add_target_set(parser)


def add_target_set(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that select the documents of a target."""
    parser.add_argument(
        "--target-documents",
        type=int,
        metavar="N",
        help="use N documents of the target set, as data.target_documents (default: all)",
    )
    parser.add_argument(
        "--target-seed", type=seed, default=0, help="seed of their choice, as data.target_seed (default: %(default)s)"
    )
    parser.add_argument("--root", type=Path, help="folder of the corpus, if it was moved after it was embedded")


def placed_target(options: argparse.Namespace, folder: Path, clusters: Clusters) -> NDArray[np.int64]:
    """The cluster of each document of the target set that shares a word with the corpus, ``[m]``.

    Raises:
        DomainsError: If no document does, so that the target cannot be placed.
    """
    documents = target_set(options, folder)
    known: NDArray[np.bool_] = np.any(clusters.embedding(documents), axis=1)
    if not known.any():
        raise DomainsError(
            f"Target {options.target!r}: none of its {len(documents)} documents shares a word with the corpus of "
            f"{folder}, so they belong to no cluster. Embed the corpus with --model, or choose another target."
        )
    if not known.all():
        left_out = len(documents) - int(known.sum())
        print(
            f"dga-domains: {left_out} of {len(documents)} documents of the target share no word with the corpus, "
            "and are left out.",
            file=sys.stderr,
        )
    return clusters.place(document for document, kept in zip(documents, known, strict=True) if kept)


def target_set(options: argparse.Namespace, folder: Path) -> list[str]:
    """The documents that a run aligns to, without those that it validates or tests on."""
    root = options.root or read_summary(folder, "embed")["settings"]["root"]
    return folder_target(
        root, options.target, target_documents=options.target_documents, target_seed=options.target_seed
    )
