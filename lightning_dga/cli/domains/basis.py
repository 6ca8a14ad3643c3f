"""Basis distributions over clusters, from reference sets: what distribution reweighting mixes.

Writes the matrix P to FILE, [K, N] float64 with one column for each reference set, the histogram of its documents over
the clusters, and the names of the columns beside it. By default the references are the named domains that the corpus
consists of, which costs nothing; others are given as NAME=PATH, a .jsonl file or a folder of .txt files each. --target
adds a column for the documents of a target set, by which alignments may choose importance sampling.
"""

import argparse
from pathlib import Path

from lightning_dga.cli.domains.target import add_target_set, placed_target
from lightning_dga.data.text import FolderDocuments
from lightning_dga.domains import DomainsError, histogram_basis, load_clusters

_TARGET = "target"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains basis``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that `dga-domains cluster` filled")
    parser.add_argument("references", nargs="*", type=_reference, metavar="NAME=PATH", help="a reference set")
    parser.add_argument("--except", dest="without", nargs="+", default=[], metavar="NAME", help="leave these out")
    parser.add_argument("--target", metavar="NAME", help=f"add the target set of target_NAME.jsonl, as `{_TARGET}`")
    add_target_set(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .npy file")


def run(options: argparse.Namespace) -> None:
    """Writes the basis."""
    if options.output.suffix != ".npy":
        raise DomainsError(f"--output {options.output}: a basis goes to a .npy file.")
    clusters = load_clusters(options.folder)
    labels = {name: clusters.place(FolderDocuments(path)) for name, path in options.references}
    references = labels or clusters.source_labels()
    if unknown := sorted(set(options.without) - set(references)):
        raise DomainsError(f"--except {unknown[0]}: no such reference set. There are: {', '.join(references)}.")
    chosen = {name: found for name, found in references.items() if name not in options.without}
    if options.target is not None:
        if _TARGET in chosen:
            raise DomainsError(f"--target: there is a reference set named {_TARGET!r} already; name it otherwise.")
        chosen[_TARGET] = placed_target(options, options.folder, clusters)
    basis = histogram_basis(chosen, len(clusters))
    basis.save(options.output)
    print(f"{options.output}: {len(clusters):,} clusters, {len(basis.names)} distributions: {', '.join(basis.names)}.")


def _reference(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PATH")
    return name, Path(path)
