"""Embeds documents by their words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.threads import one_thread
from lightning_dga.domains.words import words


class TfidfEmbedding:
    """TF-IDF of words, reduced by a truncated SVD to unit vectors: latent semantic indexing (Deerwester et al., 1990).

    Words are those of :func:`~lightning_dga.domains.words.words`, which also splits languages without spaces.

    Args:
        dimensions: Maximum number of dimensions; smaller if the documents span fewer.
        max_features: Maximum vocabulary size; the most frequent words are kept.
        seed: Seed of the randomised SVD.

    Raises:
        ImportError: If scikit-learn is not installed.
    """

    def __init__(self, dimensions: int = 64, max_features: int = 20_000, seed: int = 0) -> None:
        self._words = _vectorizer(max_features=max_features)
        self._dimensions = dimensions
        self._seed = seed
        self._project: NDArray[np.float32] | None = None

    def fit(self, documents: Iterable[str]) -> "TfidfEmbedding":
        """Learns the vocabulary and the projection from documents.

        Raises:
            DomainsError: If no document has a word.
        """
        from sklearn.utils.extmath import randomized_svd

        try:
            counts = self._words.fit_transform(documents)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            raise DomainsError(
                "No document has a word to embed it by: a word is two or more letters or digits, or one character of a "
                "script without spaces. Add text, or embed with a sentence encoder: `dga-domains embed --model`."
            ) from error
        dimensions = min(self._dimensions, *counts.shape)
        with one_thread():
            self._project = randomized_svd(counts, dimensions, random_state=self._seed)[2].T.astype(np.float32)
        return self

    def __call__(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``[documents, dimensions]``; zero for a document without a known word.

        Raises:
            RuntimeError: Before :meth:`fit`.
        """
        if self._project is None:
            raise RuntimeError("Call `fit(documents)` first.")
        vectors = self._words.transform(documents) @ self._project
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)

    @property
    def dimensions(self) -> int:
        """Number of dimensions, d."""
        return self._dimensions if self._project is None else self._project.shape[1]

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays from which :meth:`from_state` restores the embedding."""
        if self._project is None:
            raise RuntimeError("Call `fit(documents)` first.")
        return {
            "words": self._words.get_feature_names_out().astype(str),
            "idf": self._words.idf_,
            "project": self._project,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> "TfidfEmbedding":
        """Restores an embedding from its :meth:`state`."""
        embedding = cls(dimensions=state["project"].shape[1])
        embedding._words = _vectorizer(vocabulary=state["words"].tolist())
        embedding._words.idf_ = state["idf"]
        embedding._project = state["project"]
        return embedding


def _vectorizer(**arguments: Any) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError("Embedding documents needs scikit-learn: pip install 'lightning-dga[cluster]'") from error
    return TfidfVectorizer(analyzer=words, sublinear_tf=True, dtype=np.float32, **arguments)
