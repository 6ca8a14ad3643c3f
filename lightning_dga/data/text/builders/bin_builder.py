"""Tokenises a corpus on disk to token ids on disk, in parallel and resumable after an interruption.

The work is divided into parts of the input files. A finished part is a file of its own until all parts of its domain
are finished and joined, so that parts finished before an interruption are not done again.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lightning_dga.atomic import atomic_write, write_json
from lightning_dga.data.errors import DataError
from lightning_dga.data.text.builders.folder_corpus import TARGET, corpus_entries
from lightning_dga.data.text.readers.document_stream import DocumentStream
from lightning_dga.data.text.readers.fingerprint import fingerprint
from lightning_dga.data.text.readers.split import Split
from lightning_dga.data.text.tokens.encoder import DocumentEncoder
from lightning_dga.data.text.tokens.packing import token_dtype
from lightning_dga.data.text.tokens.token_bin import BIN, DESCRIPTION, BinDescription
from lightning_dga.data.text.tokens.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from lightning_dga.data.text.tokens.encoder import TokenizerLike

T = TypeVar("T")

TOKENIZER = "tokenizer.json"
_SETTINGS = "settings.json"
_PARTS = "parts"
# version 2: the settings also detect files that were rewritten
_FORMAT = 2
_MOST_PARTS = 1024
_DOCUMENTS_AT_ONCE = 1000


@dataclass(frozen=True)
class _Part:
    """Some of a domain's files, and the output file for their token ids."""

    domain: str
    splits: Sequence[Split]
    field: str
    tokenizer: Path
    end_of_text: int
    output: Path


def build_bins(
    root: str | Path,
    output: str | Path,
    *,
    vocab_size: int = 32_768,
    tokenizer: "TokenizerLike | None" = None,
    end_of_text: int | str | None = None,
    training_documents: int | None = None,
    field: str = "text",
    workers: int = 1,
    progress: bool = False,
) -> None:
    """Tokenises every domain and target of a folder, for :func:`~lightning_dga.data.text.token_bins_mixture`.

    Args:
        root: A folder of domains and targets, as :func:`~lightning_dga.data.text.folder_corpus` reads it.
        output: The folder to write to. If it holds finished parts of the same work, they are kept. Input files count as
            unchanged if their names, sizes and modification times are.
        vocab_size: Maximum vocabulary size of the tokenizer that is trained.
        tokenizer: A tokenizer to use instead of training one, such as the path of a ``tokenizer.json``; see
            :class:`~lightning_dga.data.text.DocumentEncoder`. It is copied to ``output``, without truncation and
            padding.
        end_of_text: The separator of the given tokenizer, a token or its id; by default the one that it has.
        training_documents: How many documents of each domain the tokenizer is trained on, from the first; all if not
            given. It is never trained on targets.
        field: The key or column that holds the text.
        workers: Number of processes.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If an input cannot be used (the message names domain, file and line), or ``output`` holds the result
            of other files or settings.
        FileNotFoundError: If there is no such folder or tokenizer.
        ImportError: If a library is not installed.
        ValueError: If a number is out of range.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}.")
    output = Path(output)
    streams = {name: DocumentStream(path, field) for name, path in corpus_entries(Path(root)).items()}
    if not streams:
        raise DataError(f"{root}: no domain; add files <domain>.jsonl or <domain>.parquet, or folders of such files.")
    given = DocumentEncoder(tokenizer, end_of_text) if tokenizer is not None else None
    _claim(output, _settings(streams, vocab_size, given, training_documents, field))
    encoder = _make_tokenizer(output, streams, vocab_size, given, training_documents)
    dtype = token_dtype(np.array([encoder.largest_id]))
    parts = [part for name, stream in streams.items() for part in _parts(name, stream, output, encoder.end_of_text)]
    left: dict[str, int] = {name: 0 for name in streams if not (output / f"{name}{DESCRIPTION}").is_file()}
    todo = [part for part in parts if part.domain in left and not part.output.is_file()]
    for part in todo:
        left[part.domain] += 1
    for domain in [domain for domain, number in left.items() if number == 0]:
        _join(domain, [part for part in parts if part.domain == domain], output, dtype, encoder.end_of_text)
    for part in _progress(_finished(todo, workers), len(parts), len(parts) - len(todo), progress):
        left[part.domain] -= 1
        if left[part.domain] == 0:
            _join(part.domain, [one for one in parts if one.domain == part.domain], output, dtype, encoder.end_of_text)
    shutil.rmtree(output / _PARTS, ignore_errors=True)


def _settings(
    streams: Mapping[str, DocumentStream],
    vocab_size: int,
    encoder: DocumentEncoder | None,
    training: int | None,
    field: str,
) -> dict[str, Any]:
    given = None
    if encoder is not None:
        given = hashlib.sha256(f"{encoder.end_of_text} {encoder.tokenizer.to_str()}".encode()).hexdigest()
    files = {name: _fingerprint(stream) for name, stream in streams.items()}
    trained = {"vocab_size": vocab_size, "training_documents": training} if encoder is None else {}
    return {"format": _FORMAT, "field": field, "tokenizer": given, **trained, "files": files}


def _fingerprint(stream: DocumentStream) -> str:
    # includes the parts, because a finished part is found by its number
    parts = json.dumps([[split.begin, split.end] for split in stream.splits])
    files = fingerprint(dict.fromkeys(split.url for split in stream.splits))
    return hashlib.sha256(f"{files} {parts}".encode()).hexdigest()


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Claims the folder for this work, or checks that it already contains it."""
    file = output / _SETTINGS
    if file.is_file():
        if difference := _difference(_read_settings(file), settings):
            raise DataError(
                f"{output} holds token ids of other files, or made with other settings ({file}): {difference}. Remove "
                "the folder, or choose another."
            )
        return
    if output.is_dir() and any(output.iterdir()):
        raise DataError(f"{output} holds other files; choose a new or empty folder.")
    output.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read ({error}); remove its folder, or choose another.") from error
    if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
        raise DataError(f"{file} is of another version of lightning-dga; remove its folder, or choose another.")
    return settings


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """A description of the settings that differ; empty if none do."""
    for key in [key for key in {**old, **new} if key != "files"]:
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r}, and is {new.get(key)!r}"
    before, now = old["files"], new["files"]
    for names, what in ((now.keys() - before.keys(), "new"), (before.keys() - now.keys(), "gone")):
        if names:
            return f"{', '.join(sorted(names))} {'is' if len(names) == 1 else 'are'} {what}"
    changed = [name for name in now if now[name] != before[name]]
    return f"the files of {', '.join(changed)} have changed since" if changed else ""


def _make_tokenizer(
    output: Path,
    streams: Mapping[str, DocumentStream],
    vocab_size: int,
    given: DocumentEncoder | None,
    training: int | None,
) -> DocumentEncoder:
    file = output / TOKENIZER
    if not file.is_file():
        if given is None:
            domains = [_named(n, islice(s, training)) for n, s in streams.items() if not n.startswith(TARGET)]
            made = train_tokenizer(chain.from_iterable(domains), vocab_size)
        else:
            made = given.tokenizer
        with atomic_write(file) as stream:
            stream.write(made.to_str().encode())
    return DocumentEncoder(file, given.end_of_text if given is not None else None)


def _parts(domain: str, stream: DocumentStream, output: Path, end_of_text: int) -> list[_Part]:
    number = min(len(stream.splits), _MOST_PARTS)
    bounds = [len(stream.splits) * index // number for index in range(number + 1)]
    return [
        _Part(
            domain,
            stream.splits[begin:end],
            stream.field,
            output / TOKENIZER,
            end_of_text,
            output / _PARTS / f"{domain}.{index:04}{BIN}",
        )
        for index, (begin, end) in enumerate(pairwise(bounds))
    ]


def _finished(parts: Sequence[_Part], workers: int) -> Iterator[_Part]:
    """Tokenises parts, and yields each when it is done."""
    if workers == 1 or len(parts) < 2:
        for part in parts:
            yield _tokenize(part)
        return
    with ProcessPoolExecutor(min(workers, len(parts))) as pool:
        futures = [pool.submit(_tokenize, part) for part in parts]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "A process that tokenizes died, possibly because memory ran out. Run the same command again with fewer "
                "`workers`: finished parts are kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _tokenize(part: _Part) -> _Part:
    encoder = DocumentEncoder(part.tokenizer, part.end_of_text)
    dtype = np.dtype(token_dtype(np.array([encoder.largest_id]))).newbyteorder("<")
    with atomic_write(part.output) as file:
        for ids in _named(part.domain, _encoded(encoder, DocumentStream.of(part.splits, part.field))):
            file.write(np.array([*ids, part.end_of_text], dtype=dtype).tobytes())
    return part


def _encoded(encoder: DocumentEncoder, stream: DocumentStream) -> Iterator[list[int]]:
    documents = iter(stream)
    while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        yield from encoder.encode_batch(batch)


def _join(domain: str, parts: Sequence[_Part], output: Path, dtype: type, end_of_text: int) -> None:
    file = output / f"{domain}{BIN}"
    size = sum(part.output.stat().st_size for part in parts)
    if not size:
        raise DataError(f"Domain {domain!r} has no document; remove it, or add documents.")
    # in the folder of the parts, so that leftovers of a killed run are removed together with them
    whole = output / _PARTS / file.name
    with atomic_write(whole) as joined:
        for part in parts:
            with part.output.open("rb") as one:
                shutil.copyfileobj(one, joined)
    whole.replace(file)
    digest = hashlib.sha256((output / TOKENIZER).read_bytes()).hexdigest()
    BinDescription(size // np.dtype(dtype).itemsize, np.dtype(dtype).name, end_of_text, digest).write(file)
    for part in parts:
        part.output.unlink()


def _named(domain: str, items: Iterable[T]) -> Iterator[T]:
    try:
        yield from items
    except DataError as error:
        raise DataError(f"Domain {domain!r}: {error}") from error


def _progress(parts: Iterator[_Part], total: int, done: int, shown: bool) -> Iterator[_Part]:
    from tqdm.auto import tqdm

    return iter(tqdm(parts, total=total, initial=done, desc="tokenizing", unit="part", disable=not shown))
