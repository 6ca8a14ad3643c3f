"""Documents to vectors, by which they are told apart."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class TfidfEmbedding:
    """TF-IDF of words, reduced by a truncated SVD to unit vectors: latent semantic indexing (Deerwester et al., 1990).

    Args:
        dimensions: Length of a vector; fewer where the documents do not span as many.
        max_features: Most words, the most frequent ones.
        seed: Of the randomised SVD.

    Raises:
        ImportError: If scikit-learn is not installed.
    """

    def __init__(self, dimensions: int = 64, max_features: int = 20_000, seed: int = 0) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise ImportError("Embedding documents needs scikit-learn: pip install 'lightning-dga[cluster]'") from error
        self._dimensions = dimensions
        self._seed = seed
        self._words = TfidfVectorizer(max_features=max_features, sublinear_tf=True)
        self._project: NDArray[np.float64] | None = None

    def fit(self, documents: Iterable[str]) -> "TfidfEmbedding":
        """Learns the words and the directions from documents.

        Raises:
            ValueError: If no document has a word.
        """
        from sklearn.utils.extmath import randomized_svd

        counts = self._words.fit_transform(documents)
        dimensions = min(self._dimensions, *counts.shape)
        self._project = randomized_svd(counts, dimensions, random_state=self._seed)[2].T
        return self

    def __call__(self, documents: Iterable[str]) -> NDArray[np.float64]:
        """Unit vectors ``[documents, dimensions]``; zero for a document with no word that is known.

        Raises:
            RuntimeError: Before :meth:`fit`.
        """
        if self._project is None:
            raise RuntimeError("Call `fit(documents)` first.")
        vectors = self._words.transform(documents) @ self._project
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
