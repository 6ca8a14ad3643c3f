"""How a target spreads over the domains, for importance sampling."""

import argparse
import json
from itertools import chain
from pathlib import Path

from lightning_dga.data.text.folder_corpus import folder_corpus
from lightning_dga.domains import TfidfEmbedding, nearest_domain_histogram


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``dga-domains histogram`` is told."""
    parser.add_argument("root", type=Path, help="a folder of <domain>.jsonl and target_<name>.jsonl")
    parser.add_argument("target", help="<name> of the target")
    parser.add_argument("--output", type=Path, help="write the JSON here and not to the terminal")


def run(options: argparse.Namespace) -> None:
    """Writes the histogram."""
    text = json.dumps(_histogram(options.root, options.target), indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def _histogram(root: Path, target: str) -> dict[str, float]:
    corpus = folder_corpus(root, target)
    embedding = TfidfEmbedding().fit(chain.from_iterable(corpus.domains.values()))
    return nearest_domain_histogram(corpus.domains, corpus.target, embedding)
