"""Text: reads documents from files, groups them by domain and target, and packs their tokens to windows."""

from typing import TYPE_CHECKING

from lightning_dga._lazy import lazy
from lightning_dga.data.text.builders.bin_builder import build_bins
from lightning_dga.data.text.builders.folder_corpus import FolderDocuments, folder_corpus, folder_domains, folder_target
from lightning_dga.data.text.builders.standard_library import standard_library_corpus
from lightning_dga.data.text.corpus import TextCorpus, split_target
from lightning_dga.data.text.readers.document_stream import DocumentStream
from lightning_dga.data.text.readers.documents import read_folder, read_jsonl
from lightning_dga.data.text.tokens.encoder import DocumentEncoder
from lightning_dga.data.text.tokens.packed_stream import PackedStream
from lightning_dga.data.text.tokens.packing import PackedTokens, pack, separate_documents
from lightning_dga.data.text.tokens.token_bin import TokenBin
from lightning_dga.data.text.tokens.tokenized_corpus import TokenizedCorpus, TokenizedDocuments, tokenize_corpus
from lightning_dga.data.text.tokens.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, train_tokenizer

if TYPE_CHECKING:
    from lightning_dga.data.text.builders.clustered import clustered_text_mixture, pack_by_label
    from lightning_dga.data.text.builders.mixture import text_mixture
    from lightning_dga.data.text.builders.recipes import (
        clustered_mixture,
        folder_mixture,
        standard_library_mixture,
        token_bins_mixture,
    )

# what makes a data module needs Lightning, and is imported on first use
_RECIPES = ("clustered_mixture", "folder_mixture", "standard_library_mixture", "token_bins_mixture")
__getattr__ = lazy(
    __name__,
    {
        "clustered_text_mixture": "builders.clustered",
        "pack_by_label": "builders.clustered",
        "text_mixture": "builders.mixture",
        **dict.fromkeys(_RECIPES, "builders.recipes"),
    },
)

__all__ = [
    "END_OF_TEXT",
    "END_OF_TEXT_ID",
    "DocumentEncoder",
    "DocumentStream",
    "FolderDocuments",
    "PackedStream",
    "PackedTokens",
    "TextCorpus",
    "TokenBin",
    "TokenizedCorpus",
    "TokenizedDocuments",
    "build_bins",
    "clustered_mixture",
    "clustered_text_mixture",
    "folder_corpus",
    "folder_domains",
    "folder_mixture",
    "folder_target",
    "pack",
    "pack_by_label",
    "read_folder",
    "read_jsonl",
    "separate_documents",
    "split_target",
    "standard_library_corpus",
    "standard_library_mixture",
    "text_mixture",
    "token_bins_mixture",
    "tokenize_corpus",
    "train_tokenizer",
]
