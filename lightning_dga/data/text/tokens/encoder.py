"""Encodes documents with a user's tokenizer, without truncation, padding or added special tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.tokens.tokenizer import END_OF_TEXT, load_tokenizer, tokenizers_library

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    TokenizerLike: TypeAlias = "Tokenizer | PreTrainedTokenizerFast | DocumentEncoder | str | Path"

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
# end-of-document tokens of the GPT, Llama, T5, Gemma and BERT families; the first one in the vocabulary is used
SEPARATORS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")


class DocumentEncoder:
    """Encodes documents for training, with the same ids in bins, streams and every process.

    The tokenizer is copied, and settings for other uses are ignored: truncation and padding are off, and no special
    tokens are added (no ``[CLS]``, no ``<s>``). Documents are separated by a single token, ``end_of_text``, which the
    caller appends to each. Text in a document that is spelled like a special token (``<|endoftext|>``, ``</s>``) is
    encoded as text: the id of the separator never occurs within a document.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``; a fast tokenizer of ``transformers``; the path of a ``tokenizer.json``,
            or of a folder that has one; or another encoder. It is not modified.
        end_of_text: The separator, as a token or as its id. By default the ``eos_token`` (or ``sep_token``) that a
            tokenizer of ``transformers`` or a ``tokenizer_config.json`` names, else the first of :data:`SEPARATORS`
            that the tokenizer knows.

    Attributes:
        tokenizer: The copy.
        end_of_text: Id of the separator.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the ``tokenizers`` library is not installed.
        TypeError: If ``tokenizer`` is of another kind.
        DataError: If a file is not that of a tokenizer, or there is no separator.

    Example:
        >>> from lightning_dga.data.text import train_tokenizer
        >>> tokenizer = train_tokenizer(["some text"], vocab_size=260)
        >>> tokenizer.enable_truncation(2)
        >>> len(DocumentEncoder(tokenizer).encode("some text"))
        6
    """

    def __init__(self, tokenizer: "TokenizerLike", end_of_text: int | str | None = None) -> None:
        self.tokenizer: Tokenizer
        self.end_of_text: int
        if isinstance(tokenizer, DocumentEncoder):
            # already copied and cleaned; doing it again is slow for a large vocabulary
            self.tokenizer = tokenizer.tokenizer
            self.end_of_text = _separator(
                self.tokenizer, tokenizer.end_of_text if end_of_text is None else end_of_text, None
            )
        else:
            found, named = _backend(tokenizer)
            self.tokenizer = _copy(found)
            self.end_of_text = _separator(self.tokenizer, end_of_text, named)
        self._separator_text: str | None = self.tokenizer.id_to_token(self.end_of_text)

    @property
    def largest_id(self) -> int:
        """The largest id that encoding can return, including the separator's; ids may have gaps."""
        return max(self.end_of_text, *self.tokenizer.get_vocab().values())

    def encode(self, document: str) -> list[int]:
        """Token ids of a document, without a separator.

        Raises:
            DataError: If the tokenizer has no token for its characters, or encodes unknown ones as the separator.
        """
        return self.encode_batch([document])[0]

    def encode_batch(self, documents: Sequence[str]) -> list[list[int]]:
        """Token ids of each document; see :meth:`encode`."""
        return [self._checked(ids, text) for ids, text in zip(self._ids(documents), documents, strict=True)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # not part of the serialized form; without it, a worker process would read text as special tokens
        self.tokenizer.encode_special_tokens = True

    def _ids(self, documents: Sequence[str]) -> list[list[int]]:
        try:
            # encoding a single document starts no threads, which would be lost in a process forked later
            if len(documents) == 1:
                return [self.tokenizer.encode(documents[0], add_special_tokens=False).ids]
            batch = self.tokenizer.encode_batch(list(documents), add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"The tokenizer cannot encode a document: {error}") from error
        return [encoding.ids for encoding in batch]

    def _checked(self, ids: list[int], text: str) -> list[int]:
        if self.end_of_text in ids:
            ids = self._without_separator(text)
        if not ids and any(map(str.isalnum, text)):
            raise DataError(
                f"The tokenizer drops all of a document of {len(text)} characters ({text[:40]!r}): it has no token for "
                "them, no byte tokens and no unknown token. Train it on such text, or use another."
            )
        return ids

    def _without_separator(self, text: str) -> list[int]:
        """Encodes text that contains the separator as a word, split within that word so that it cannot match."""
        spelled = self._separator_text or ""
        pieces = text.split(spelled) if spelled else [text]
        cut = [
            (spelled[1:] if index else "") + piece + (spelled[:1] if index < len(pieces) - 1 else "")
            for index, piece in enumerate(pieces)
        ]
        ids = [token for part in self._ids(cut) for token in part]
        if self.end_of_text in ids:
            raise DataError(
                f"The tokenizer encodes text of a document ({text[:40]!r}) as {self._separator_text!r}, its separator "
                "of documents. Give another separator as `end_of_text`, or a tokenizer with an unknown token."
            )
        return ids


def _backend(tokenizer: Any) -> "tuple[Tokenizer, str | None]":
    """A ``tokenizers.Tokenizer``, and the end-of-text token that its configuration names."""
    if isinstance(tokenizer, str | Path):
        return _from_path(Path(tokenizer))
    if isinstance(tokenizer, tokenizers_library().Tokenizer):
        return tokenizer, None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers_library().Tokenizer):
        raise TypeError(
            f"`tokenizer` is of type {type(tokenizer).__name__}; give a `tokenizers.Tokenizer`, a fast tokenizer of "
            "`transformers` (`AutoTokenizer.from_pretrained(..., use_fast=True)`), or the path of a tokenizer.json."
        )
    return backend, getattr(tokenizer, "eos_token", None) or getattr(tokenizer, "sep_token", None)


def _from_path(path: Path) -> "tuple[Tokenizer, str | None]":
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no tokenizer {file}; give a {_FILE} or a folder that has one, such as `save_pretrained` writes."
        )
    try:
        tokenizer = load_tokenizer(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    beside = file.with_name(_CONFIG)
    if file.name != _FILE or not beside.is_file():
        return tokenizer, None
    try:
        config = json.loads(beside.read_text(encoding="utf-8-sig"))
        named = config.get("eos_token") or config.get("sep_token")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{beside}: not the config of a tokenizer ({error}).") from error
    return tokenizer, named.get("content") if isinstance(named, dict) else named


def _copy(tokenizer: "Tokenizer") -> "Tokenizer":
    try:
        serialized = tokenizer.to_str()
    except Exception as error:  # the library raises plain Exception
        # a component in Python, such as a word segmenter, cannot be copied; the tokenizer is then used as it is
        if tokenizer.truncation or tokenizer.padding:
            raise TypeError(
                f"`tokenizer` cannot be copied ({error}), and truncates or pads, which would lose or add training "
                "tokens: call its `no_truncation()` and `no_padding()`."
            ) from error
        return tokenizer
    copy = load_tokenizer(serialized)
    copy.no_truncation()
    copy.no_padding()
    return copy


def _separator(tokenizer: "Tokenizer", given: int | str | None, default: str | None) -> int:
    if isinstance(given, int):
        if given < 0:
            raise ValueError(f"`end_of_text` must be an id of 0 or more, got {given}.")
        return given
    known = [token for token in (given,) if token] or [token for token in (default, *SEPARATORS) if token]
    for token in known:
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    raise DataError(
        f"The tokenizer has no token {', '.join(known)}, to separate documents; give the token or its id as "
        "`end_of_text`."
    )
