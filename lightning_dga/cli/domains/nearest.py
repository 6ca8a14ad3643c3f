"""Find the reference set of a basis that is nearest to a target, the baseline of distribution reweighting.

Prints the cosine similarity between the mean of the target set and that of each reference set, highest first. The mean
of a set is taken over the centroids of the clusters of its documents.

--output writes the histogram of the nearest reference set, K shares to sample by:
dga-train callbacks=static data.weights=FILE.
--prior writes a prior over the N reference sets, with which distribution reweighting starts and from which alignments
can move it: dga-train callbacks=dga_basis callbacks.dga.rule.rule.prior=FILE.
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
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder given to `dga-domains cluster`")
    parser.add_argument("basis", type=Path, metavar="BASIS", help="the .npy file written by `dga-domains basis`")
    add_target(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help=".npy file for the histogram of the nearest set")
    parser.add_argument(
        "--prior", type=Path, metavar="FILE", help=".json file for the prior: 1 for the nearest set, 0 for the others"
    )


def run(options: argparse.Namespace) -> None:
    """Prints the similarities, and writes the nearest histogram."""
    clusters, basis = load_clusters(options.folder), Basis.load(options.basis)
    if len(basis.matrix) != len(clusters):
        raise DomainsError(
            f"{options.basis} is over {len(basis.matrix)} clusters, but {options.folder} has {len(clusters)}. Make it "
            "again with `dga-domains basis`."
        )
    histogram = label_histogram(placed_target(options, options.folder, clusters), len(clusters))
    similarities = reference_similarities(histogram, basis, clusters.tree.leaves)
    print(json.dumps(similarities, indent=2))
    nearest = next(iter(similarities))
    if options.output is not None:
        save_shares(options.output, basis.columns[nearest])
    if options.prior is not None:
        write_json(options.prior, {name: float(name == nearest) for name in basis.names})
