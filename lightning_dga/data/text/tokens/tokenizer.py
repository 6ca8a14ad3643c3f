"""The tokenizer: byte-level BPE, trained on the user's own documents."""

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
    """Trains a byte-level BPE tokenizer (as GPT-2's, with one special token), the same for the same documents.

    It encodes any text: what it did not see in training falls back to bytes. ``<|endoftext|>``, id 0, separates
    documents; a document that spells it out is encoded as ordinary text.

    Args:
        documents: What to train on.
        vocab_size: Most token ids; fewer where the documents hold no more pairs to merge.

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
    """Restores what ``tokenizer.to_str()`` saved of a tokenizer of :func:`train_tokenizer`.

    Raises:
        ImportError: If the ``tokenizers`` library is not installed.
        ValueError: If ``serialized`` is not that of a tokenizer.
    """
    library = tokenizers_library()
    try:
        return _as_text(library.Tokenizer.from_str(serialized))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"Not a serialized tokenizer: {error}") from error


def tokenizers_library() -> ModuleType:
    """The ``tokenizers`` library, which is optional.

    Raises:
        ImportError: If it is not installed; names the extra that has it.
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
