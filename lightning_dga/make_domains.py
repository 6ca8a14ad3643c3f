"""The command ``dga-domains``: what to know of a corpus before a run."""

import argparse
import json
import sys
from itertools import chain
from pathlib import Path

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.folder_corpus import folder_corpus
from lightning_dga.domains import TfidfEmbedding, nearest_domain_histogram


def main(arguments: list[str] | None = None) -> None:
    """Runs ``dga-domains``: a user's mistake ends in one line and exit status 1."""
    parser = argparse.ArgumentParser(prog="dga-domains", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    histogram = commands.add_parser("histogram", help="how a target spreads over the domains, for importance sampling")
    histogram.add_argument("root", type=Path, help="a folder of <domain>.jsonl and target_<name>.jsonl")
    histogram.add_argument("target", help="<name> of the target")
    histogram.add_argument("--output", type=Path, help="write the JSON here and not to the terminal")
    options = parser.parse_args(arguments)
    try:
        text = json.dumps(_histogram(options.root, options.target), indent=2)
    except (DataError, FileNotFoundError, ImportError) as error:
        print(f"dga-domains: {error}", file=sys.stderr)
        sys.exit(1)
    if options.output is None:
        print(text)
    else:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def _histogram(root: Path, target: str) -> dict[str, float]:
    corpus = folder_corpus(root, target)
    embedding = TfidfEmbedding().fit(chain.from_iterable(corpus.domains.values()))
    return nearest_domain_histogram(corpus.domains, corpus.target, embedding)
