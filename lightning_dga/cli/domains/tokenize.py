"""Tokenize every domain and target to files of token ids, for training that reads them from disk.

An interrupted command can be repeated, and resumes from what is finished.
"""

import argparse
from pathlib import Path

from lightning_dga.cli.domains.arguments import count
from lightning_dga.data.text.builders.bin_builder import build_bins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains tokenize``."""
    parser.add_argument(
        "root", type=Path, help="folder of domains and targets (target_<name>), as .jsonl, .parquet, .txt, .gz, …"
    )
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument(
        "--vocab-size", type=count, default=32_768, help="maximum vocabulary size (default: %(default)s)"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer.json to use, or a folder that has one; if given, no tokenizer is trained",
    )
    parser.add_argument(
        "--end-of-text",
        metavar="TOKEN",
        help="token that separates documents (default: the one that the tokenizer has)",
    )
    parser.add_argument(
        "--training-documents", type=count, help="documents of each domain that train the tokenizer (default: all)"
    )
    parser.add_argument("--field", default="text", help="key or column that holds the text (default: %(default)s)")
    parser.add_argument("--workers", type=count, default=1, help="number of processes (default: %(default)s)")


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
