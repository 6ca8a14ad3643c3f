"""Which reference set of a basis is nearest to a target: the baseline of distribution reweighting.

Prints the cosine between the mean of the target set and of each reference set, as the clusters that they fall into have
it, the nearest first. --output gets the nearest one's histogram, K shares to sample by: dga-train callbacks=static
data.weights=FILE. --prior gets the same as shares of the N references, with which distribution reweighting starts, and
which it leaves where alignments contradict it: dga-train callbacks=dga_basis callbacks.dga.rule.rule.prior=FILE.
"""

import argparse
import json
from pathlib import Path

from lightning_dga.atomic import write_json
from lightning_dga.cli.domains.histogram import save_shares
from lightning_dga.cli.domains.target import add_target, placed_target
from lightning_dga.domains import Basis, DomainsError, label_histogram, load_clusters, reference_similarities


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains nearest``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that `dga-domains cluster` filled")
    parser.add_argument("basis", type=Path, metavar="BASIS", help="the .npy file that `dga-domains basis` wrote")
    add_target(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="a .npy file for the nearest one's histogram")
    parser.add_argument("--prior", type=Path, metavar="FILE", help="a .json file: 1 for the nearest, 0 for the others")


def run(options: argparse.Namespace) -> None:
    """Prints the similarities, and writes the nearest histogram."""
    clusters, basis = load_clusters(options.folder), Basis.load(options.basis)
    if len(basis.matrix) != len(clusters):
        raise DomainsError(
            f"{options.basis} is over {len(basis.matrix)} clusters, {options.folder} has {len(clusters)}."
        )
    histogram = label_histogram(placed_target(options, options.folder, clusters), len(clusters))
    similarities = reference_similarities(histogram, basis, clusters.tree.leaves)
    print(json.dumps(similarities, indent=2))
    nearest = next(iter(similarities))
    if options.output is not None:
        save_shares(options.output, basis.columns[nearest])
    if options.prior is not None:
        write_json(options.prior, {name: float(name == nearest) for name in basis.names})
