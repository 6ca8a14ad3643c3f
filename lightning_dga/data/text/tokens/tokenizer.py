"""A byte-level BPE tokenizer, trained on the user's own documents."""

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
# special tokens get the first ids
END_OF_TEXT_ID = 0

_BYTES = 256


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Trains a byte-level BPE tokenizer like GPT-2's, deterministically.

    It encodes any text: what did not occur in training falls back to bytes. The only special token is
    ``<|endoftext|>``, with id 0, which separates documents; the same characters in a document are encoded as text.

    Args:
        documents: The documents to train on.
        vocab_size: Maximum vocabulary size; smaller if the documents have no more pairs to merge.

    Raises:
        ImportError: If the ``tokenizers`` library is not installed.
        ValueError: If ``vocab_size`` is below 257, one for each byte and one for ``<|endoftext|>``.
    """
    if vocab_size < _BYTES + 1:
        raise ValueError(
            f"`vocab_size` must be at least {_BYTES + 1} (every byte and {END_OF_TEXT}), got {vocab_size}."
        )
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return _as_text(tokenizer)


def load_tokenizer(serialized: str) -> "Tokenizer":
    """Restores a tokenizer of :func:`train_tokenizer` from its ``to_str()``.

    Raises:
        ImportError: If the ``tokenizers`` library is not installed.
        ValueError: If ``serialized`` is not a serialized tokenizer.
    """
    library = tokenizers_library()
    try:
        return _as_text(library.Tokenizer.from_str(serialized))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"Not a serialized tokenizer: {error}") from error


def tokenizers_library() -> ModuleType:
    """The ``tokenizers`` library, which is optional.

    Raises:
        ImportError: If it is not installed; the message names the extra that contains it.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("Text needs the `tokenizers` library: pip install 'lightning-dga[text]'") from error
    return tokenizers


def _as_text(tokenizer: "Tokenizer") -> "Tokenizer":
    # not part of the serialized form, so it is set again after loading
    tokenizer.encode_special_tokens = True
    return tokenizer
