"""Embeds documents with a sentence encoder."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.domains.errors import DomainsError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


class SentenceEmbedding:
    """Embeds documents as unit vectors with a sentence-transformers model (arXiv 1908.10084).

    Args:
        model: A folder that holds a model, or a name on the Hugging Face Hub. With ``HF_HUB_OFFLINE=1`` in the
            environment, only the local cache is searched.
        device: Device of the model, such as ``"cpu"`` or ``"cuda"``; the best available if not given.
        batch_size: Number of documents per batch.

    Raises:
        ImportError: If sentence-transformers is not installed.
        DomainsError: If the model cannot be loaded.
    """

    def __init__(self, model: str = MINILM, device: str | None = None, batch_size: int = 64) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "A sentence encoder needs sentence-transformers: pip install 'lightning-dga[sentences]'"
            ) from error
        try:
            self._encoder = SentenceTransformer(model, device=device)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise DomainsError(
                f"The sentence encoder {model!r} cannot be loaded ({reason}); give the folder of a model, or the name "
                "of one on the Hub (with HF_HUB_OFFLINE=1, in the local cache)."
            ) from error
        # this works in every version of the library
        self._dimensions = self._encoder.encode(["a"], show_progress_bar=False).shape[1]
        self._model = model
        self._batch_size = batch_size

    def fit(self, documents: Iterable[str]) -> "SentenceEmbedding":
        """Does nothing, because the model is already trained."""
        return self

    def __call__(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``[documents, dimensions]``. Documents are truncated to the maximum input length."""
        if not documents:
            return np.empty((0, self.dimensions), dtype=np.float32)
        return self._encoder.encode(
            list(documents), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32, copy=False)

    @property
    def dimensions(self) -> int:
        """Number of dimensions, d."""
        return self._dimensions

    def state(self) -> dict[str, NDArray[Any]]:
        """The name of the model, without its weights."""
        return {"model": np.array(self._model), "batch_size": np.array(self._batch_size)}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> "SentenceEmbedding":
        """Restores an embedding from its :meth:`state`."""
        return cls(str(state["model"]), batch_size=int(state["batch_size"]))
