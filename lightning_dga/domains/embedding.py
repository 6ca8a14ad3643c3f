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
    """Documents to unit vectors."""

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    def fit(self, documents: Iterable[str]) -> "Embedding":
        """Learns what it needs from documents of the corpus."""
        ...

    def __call__(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``[documents, dimensions]``."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays from which the same embedding can be made again."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> "Embedding":
        """The embedding that a :meth:`state` is of."""
        ...


EMBEDDINGS: dict[str, type[Embedding]] = {"tfidf": TfidfEmbedding, "sentences": SentenceEmbedding}


def save_embedding(file: Path, embedding: Embedding) -> None:
    """Keeps an embedding in a file."""
    kind = next(name for name, kind in EMBEDDINGS.items() if type(embedding) is kind)
    write_arrays(file, kind=np.array(kind), **embedding.state())


def load_embedding(file: Path) -> Embedding:
    """The embedding of a file that :func:`save_embedding` wrote."""
    state = read_arrays(file)
    return EMBEDDINGS[str(state["kind"])].from_state(state)
