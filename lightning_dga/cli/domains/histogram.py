"""Count how a target is distributed over the domains, as the prior of importance sampling.

DOMAINS is either a folder of named domains, with <domain>.jsonl beside target_NAME.jsonl, or the folder given to
`dga-domains cluster`. Only the target set is counted, not the documents that a run validates or tests on. The histogram
of named domains is JSON; that of K clusters is a .npy file of K shares. Use it as the prior of a run:
dga-train callbacks=importance callbacks.dga.rule.prior=FILE.
"""

import argparse
import json
import sys
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import atomic_write, write_json
from lightning_dga.cli.domains.target import add_target, placed_target
from lightning_dga.data.text import folder_corpus
from lightning_dga.data.text.builders.folder_corpus import corpus_entries
from lightning_dga.data.text.readers.document_stream import is_text
from lightning_dga.data.text.readers.fingerprint import fingerprint
from lightning_dga.data.text.readers.listing import list_files
from lightning_dga.domains import (
    DomainsError,
    TfidfEmbedding,
    is_clustered,
    label_histogram,
    load_clusters,
    nearest_domain_histogram,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains histogram``."""
    parser.add_argument("folder", type=Path, metavar="DOMAINS", help="the folder of domains")
    add_target(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: print to the terminal)")


def run(options: argparse.Namespace) -> None:
    """Writes the histogram."""
    (_of_clusters if is_clustered(options.folder) else _of_named_domains)(options)


def target_histogram(
    root: str | Path, target: str, target_documents: int | None = None, target_seed: int = 0
) -> dict[str, float]:
    """Fraction of a target's documents that are nearest to each domain, by their words.

    Args:
        root: A folder of domains and targets; see :func:`~lightning_dga.data.text.folder_corpus`, also of the rest.
        target: ``<name>`` of the target.
        target_documents: Number of its documents in the target set.
        target_seed: Seed of their selection.
    """
    # cached, because every resolution of a config calls it; counted again if a file has changed
    files = fingerprint(file for path in corpus_entries(Path(root)).values() for file in list_files(path, is_text))
    return dict(_counted(root, target, target_documents, target_seed, files))


@cache
def _counted(
    root: str | Path, target: str, target_documents: int | None, target_seed: int, files: str
) -> dict[str, float]:
    corpus = folder_corpus(root, target, target_documents=target_documents, target_seed=target_seed)
    embedding = TfidfEmbedding().fit(chain.from_iterable(corpus.domains.values()))
    return nearest_domain_histogram(corpus.domains, corpus.target, embedding)


def _of_named_domains(options: argparse.Namespace) -> None:
    shares = target_histogram(options.folder, options.target, options.target_documents, options.target_seed)
    if options.output is None:
        print(json.dumps(shares, indent=2))
    else:
        write_json(options.output, shares)


def _of_clusters(options: argparse.Namespace) -> None:
    clusters = load_clusters(options.folder)
    histogram = label_histogram(placed_target(options, options.folder, clusters), len(clusters))
    used = np.flatnonzero(histogram)
    print(f"The target set occurs in {len(used):,} of {len(clusters):,} clusters.", file=sys.stderr)
    if options.output is None:
        shares = {str(index): float(histogram[index]) for index in used[np.argsort(-histogram[used], kind="stable")]}
        print(json.dumps(shares, indent=2))
    else:
        save_shares(options.output, histogram)


def save_shares(file: Path, shares: NDArray[np.float64]) -> None:
    """Writes one number per cluster.

    Raises:
        DomainsError: If the name of the file does not end in ``.npy``.
    """
    if file.suffix != ".npy":
        raise DomainsError(
            f"--output {file}: for clusters the file name must end in .npy, such as {file.with_suffix('.npy')}."
        )
    with atomic_write(file) as stream:
        np.save(stream, shares)
