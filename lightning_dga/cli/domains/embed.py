"""Embed the documents of a corpus as vectors, the first step towards clusters.

Reads the domains in ROOT: every <name>.jsonl file with one {"text": ...} per line, every .parquet file, and every
folder of such files or of .txt files. Targets, which are named target_<name>, are not read. Writes one vector per
document to FOLDER.

An interrupted command can be repeated, and resumes from what is finished. Next step: dga-domains cluster FOLDER
--clusters K.
"""

import argparse
from pathlib import Path
from typing import Any

from lightning_dga.cli.domains.arguments import count, seed
from lightning_dga.data.errors import DataError
from lightning_dga.data.text import FolderDocuments, folder_domains
from lightning_dga.data.text.readers.document_stream import is_text
from lightning_dga.data.text.readers.fingerprint import fingerprint
from lightning_dga.data.text.readers.listing import list_files
from lightning_dga.domains import SentenceEmbedding, TfidfEmbedding, embed_corpus
from lightning_dga.domains.embedding import Embedding
from lightning_dga.domains.sentences import MINILM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``dga-domains embed``."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the corpus")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write to")
    parser.add_argument(
        "--dimensions", type=count, default=64, help="size of the TF-IDF + SVD vectors (default: %(default)s)"
    )
    parser.add_argument(
        "--max-features", type=count, default=20_000, help="vocabulary size of TF-IDF (default: %(default)s)"
    )
    parser.add_argument(
        "--fit-documents",
        type=count,
        default=100_000,
        help="documents that TF-IDF + SVD is fitted to (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        nargs="?",
        const=MINILM,
        metavar="MODEL",
        help="embed with this sentence-transformers model, a folder or a name on the Hub, instead of TF-IDF + SVD "
        "(without a value: %(const)s)",
    )
    parser.add_argument("--device", help="device of that model, such as cpu or cuda (default: the best available)")
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="seed of the SVD and of the documents it is fitted to (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the vectors that FOLDER holds")


def run(options: argparse.Namespace) -> None:
    """Embeds the corpus."""
    sources = folder_domains(options.root)
    if not sources:
        raise DataError(f"{options.root}: no documents; add <name>.jsonl files or folders of .txt files.")
    embedding: Embedding
    if options.model is None:
        embedding = TfidfEmbedding(options.dimensions, options.max_features, options.seed)
        how: dict[str, Any] = {
            "embedding": "tfidf",
            "dimensions": options.dimensions,
            "max_features": options.max_features,
        }
    else:
        embedding = SentenceEmbedding(options.model, options.device)
        how = {"embedding": "sentences", "model": options.model}
    settings = {
        **how,
        "root": str(options.root.resolve()),
        "files": {name: _fingerprint(documents) for name, documents in sources.items()},
    }
    embed_corpus(
        sources,
        embedding,
        options.folder,
        settings=settings,
        fit_documents=options.fit_documents,
        seed=options.seed,
        overwrite=options.overwrite,
        progress=True,
    )
    print(f"{options.folder / 'embeddings.npy'} is complete. Next: dga-domains cluster {options.folder} --clusters K")


def _fingerprint(documents: FolderDocuments) -> str:
    """A fingerprint by which a change of the corpus is detected."""
    return fingerprint(list_files(documents.path, is_text))
