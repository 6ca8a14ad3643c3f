"""The protocol of an embedding, and its storage, so that a target is embedded like the corpus."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import write_arrays
from lightning_dga.domains.kept import read_arrays
from lightning_dga.domains.sentences import SentenceEmbedding
from lightning_dga.domains.tfidf import TfidfEmbedding


class Embedding(Protocol):
    """Maps documents to unit vectors."""

    @property
    def dimensions(self) -> int:
        """Number of dimensions, d."""
        ...

    def fit(self, documents: Iterable[str]) -> "Embedding":
        """Fits the embedding to documents of the corpus."""
        ...

    def __call__(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``[documents, dimensions]``."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays from which :meth:`from_state` restores the embedding."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> "Embedding":
        """Restores an embedding from its :meth:`state`."""
        ...


EMBEDDINGS: dict[str, type[Embedding]] = {"tfidf": TfidfEmbedding, "sentences": SentenceEmbedding}


def save_embedding(file: Path, embedding: Embedding) -> None:
    """Writes an embedding to a file."""
    kind = next(name for name, kind in EMBEDDINGS.items() if type(embedding) is kind)
    write_arrays(file, kind=np.array(kind), **embedding.state())


def load_embedding(file: Path) -> Embedding:
    """Reads the embedding from a file of :func:`save_embedding`."""
    state = read_arrays(file)
    return EMBEDDINGS[str(state["kind"])].from_state(state)
