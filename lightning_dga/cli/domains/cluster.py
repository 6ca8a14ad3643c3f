"""Cluster the vectors of a corpus, so that each cluster is a domain.

Writes FOLDER/labels.npy: the cluster of each document, from 0 to K - 1, for `dga-train data=clusters` and for
MixtureDataModule.from_labels. Above 1,024 clusters, k-means is hierarchical, with 64 children per node. Every cluster
has at least one document. There are K clusters, or fewer if the corpus has fewer distinct vectors.

An interrupted command can be repeated, and resumes from what is finished. Next step: dga-domains histogram.
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
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder given to `dga-domains embed`")
    parser.add_argument("--clusters", type=count, required=True, metavar="K", help="number of clusters")
    parser.add_argument("--levels", type=count, help="levels of the hierarchy; 1 is plain k-means (default: by K)")
    parser.add_argument(
        "--library", choices=LIBRARIES, default=best_library(), help="library that runs k-means (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=count, default=os.cpu_count(), help="number of threads (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the initial centroids (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the clusters that FOLDER holds")


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
            f"dga-domains: {made['clusters']:,} clusters instead of {options.clusters:,}: the corpus has no more "
            "distinct vectors.",
            file=sys.stderr,
        )
    print(
        f"{options.folder / 'labels.npy'}: {made['clusters']:,} clusters of {made['documents']:,} documents; "
        f"median size {made['median']:g}, largest {made['largest']:,}, {made['singletons']:,} with one document."
    )
