"""Cluster the vectors of a corpus: each cluster is a domain.

Writes FOLDER/labels.npy, the cluster of each document from 0 to K - 1, which `dga-train data=clusters` and
MixtureDataModule.from_labels take. More than 1,024 clusters are made level by level, 64 from each, up to 262,144 and
beyond. Every cluster has at least one document, and there are as many as asked for unless the corpus has fewer
different documents. It may be killed at any time: the same command goes on where it was. Next: dga-domains histogram.
"""

import argparse
import os
import sys
from pathlib import Path

from lightning_dga.cli.domains.arguments import count, seed
from lightning_dga.domains import cluster_corpus
from lightning_dga.domains.kmeans import LIBRARIES, best_library
from lightning_dga.domains.resumable_stage import read_summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains cluster``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where `dga-domains embed` left the vectors")
    parser.add_argument("--clusters", type=count, required=True, metavar="K", help="how many")
    parser.add_argument("--levels", type=count, help="levels of the hierarchy; 1 is plain k-means (64 children a node)")
    parser.add_argument(
        "--library", choices=LIBRARIES, default=best_library(), help="what runs k-means (here: %(default)s)"
    )
    parser.add_argument("--jobs", type=count, default=os.cpu_count(), help="threads (%(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the first guesses (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where FOLDER holds clusters")


def run(options: argparse.Namespace) -> None:
    """Clusters the vectors."""
    cluster_corpus(
        options.folder,
        options.clusters,
        levels=options.levels,
        seed=options.seed,
        library=options.library,
        jobs=options.jobs,
        overwrite=options.overwrite,
        progress=True,
    )
    made = read_summary(options.folder, "cluster")
    if made["clusters"] < options.clusters:
        print(
            f"dga-domains: {made['clusters']:,} clusters, not {options.clusters:,}: the corpus has no more different "
            "vectors.",
            file=sys.stderr,
        )
    print(
        f"{options.folder / 'labels.npy'}: {made['clusters']:,} clusters of {made['documents']:,} documents; the "
        f"median has {made['median']:g}, the largest {made['largest']:,}, and {made['singletons']:,} have one."
    )
