"""Make the basis distributions over clusters that distribution reweighting mixes, from reference sets.

Writes the matrix P to FILE, [K, N] float64: column n is the histogram of reference set n over the K clusters. The names
of the columns are written to a second file beside it. By default the reference sets are the named domains of the
corpus, whose clusters are known already. To use others, give NAME=PATH for each, where PATH is a .jsonl file or a
folder of .txt files. --target adds a column for the target set itself, so that reweighting can choose importance
sampling.
"""

import argparse
from pathlib import Path

from lightning_dga.cli.domains.target import add_target_set, placed_target
from lightning_dga.data.text import FolderDocuments
from lightning_dga.domains import DomainsError, histogram_basis, load_clusters

_TARGET = "target"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains basis``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder given to `dga-domains cluster`")
    parser.add_argument(
        "references",
        nargs="*",
        type=_reference,
        metavar="NAME=PATH",
        help="a reference set (default: every named domain)",
    )
    parser.add_argument(
        "--except", dest="without", nargs="+", default=[], metavar="NAME", help="reference sets to leave out"
    )
    parser.add_argument("--target", metavar="NAME", help=f"add the target set in target_NAME.jsonl, as `{_TARGET}`")
    add_target_set(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .npy file to write")


def run(options: argparse.Namespace) -> None:
    """Writes the basis."""
    if options.output.suffix != ".npy":
        raise DomainsError(f"--output {options.output}: the file name must end in .npy.")
    clusters = load_clusters(options.folder)
    labels = {name: clusters.place(FolderDocuments(path)) for name, path in options.references}
    references = labels or clusters.source_labels()
    if unknown := sorted(set(options.without) - set(references)):
        raise DomainsError(
            f"--except {unknown[0]}: there is no such reference set; choose from {', '.join(references)}."
        )
    chosen = {name: found for name, found in references.items() if name not in options.without}
    if options.target is not None:
        if _TARGET in chosen:
            raise DomainsError(f"--target: a reference set is already named {_TARGET!r}; give that one another name.")
        chosen[_TARGET] = placed_target(options, options.folder, clusters)
    basis = histogram_basis(chosen, len(clusters))
    basis.save(options.output)
    print(f"{options.output}: {len(clusters):,} clusters, {len(basis.names)} distributions: {', '.join(basis.names)}.")


def _reference(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PATH")
    return name, Path(path)
