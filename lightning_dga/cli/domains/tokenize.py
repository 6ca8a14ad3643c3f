"""Token ids of every domain and target, for training that reads them from disk.

Interrupted, the same command goes on where it was.
"""

import argparse
from pathlib import Path

from lightning_dga.cli.domains.arguments import count
from lightning_dga.data.text.builders.bin_builder import build_bins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains tokenize``."""
    parser.add_argument(
        "root", type=Path, help="a folder of <domain> and target_<name>: .jsonl, .parquet, .txt, .gz, …"
    )
    parser.add_argument("output", type=Path, help="the folder to write to")
    parser.add_argument("--vocab-size", type=count, default=32_768, help="most token ids (default: %(default)s)")
    parser.add_argument(
        "--tokenizer", type=Path, help="use this tokenizer.json, or that of this folder, and train none"
    )
    parser.add_argument("--end-of-text", metavar="TOKEN", help="its token that separates documents, if none is found")
    parser.add_argument(
        "--training-documents", type=count, help="of each domain, to train the tokenizer on; default: all"
    )
    parser.add_argument("--field", default="text", help="key or column of the text (default: %(default)s)")
    parser.add_argument("--workers", type=count, default=1, help="processes that tokenize (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Writes the token ids."""
    build_bins(
        options.root,
        options.output,
        vocab_size=options.vocab_size,
        tokenizer=options.tokenizer,
        end_of_text=options.end_of_text,
        training_documents=options.training_documents,
        field=options.field,
        workers=options.workers,
        progress=True,
    )
