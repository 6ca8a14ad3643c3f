"""Properties of Hugging Face streams without a public API: what their state and their sharding leave out."""

from collections.abc import Iterator
from copy import copy as shallow_copy
from typing import Any

# maximum depth at which a stream is searched for inside user objects that read it
_DEPTH = 3


def is_hub_stream(dataset: Any) -> bool:
    """Whether an iterable reads a Hugging Face stream."""
    return next(_streams(dataset, _DEPTH), None) is not None


def holds_a_shuffle_buffer(dataset: Any) -> bool:
    """Whether the chain of streams that an iterable reads contains a shuffle buffer."""
    return any(hasattr(part, "buffer_size") for part in _parts(dataset))


def counts_samples(dataset: Any) -> bool:
    """Whether an iterable takes or skips a number of samples; shards divide that number regardless of their sizes."""
    return any(type(part).__name__ in ("TakeExamplesIterable", "SkipExamplesIterable") for part in _parts(dataset))


def is_split_by_rank(dataset: Any) -> bool:
    """Whether ``datasets.distributed.split_dataset_by_node`` made the stream that an iterable reads."""
    return any(getattr(stream, "_distributed", None) is not None for stream in _streams(dataset, _DEPTH))


def whole(dataset: Any) -> Any:
    """Undoes the split by rank that :func:`is_split_by_rank` found, of a stream or of packed documents of one.

    Raises:
        TypeError: If the stream is inside an object of another type.
    """
    copy = shallow_copy(dataset)
    if hasattr(dataset, "_ex_iterable"):
        copy._distributed = None
    elif hasattr(dataset, "documents"):
        copy.documents = whole(dataset.documents)
    else:
        raise TypeError(f"a {type(dataset).__name__} holds a stream that was split by rank")
    return copy


def _streams(dataset: Any, depth: int) -> Iterator[Any]:
    """The Hugging Face streams among an iterable and the objects that it holds."""
    if hasattr(dataset, "_ex_iterable"):
        yield dataset
    elif depth:
        for value in getattr(dataset, "__dict__", {}).values():
            yield from _streams(value, depth - 1)


def _parts(dataset: Any) -> Iterator[Any]:
    """The components of streams, at any depth of mapping, interleaving and so on."""
    waiting, seen = [stream._ex_iterable for stream in _streams(dataset, _DEPTH)], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for value in vars(part).values():
            several = value if isinstance(value, list | tuple) else [value]
            waiting.extend(one for one in several if _is_part(one))


def _is_part(value: Any) -> bool:
    return any(base.__name__ == "_BaseExamplesIterable" for base in type(value).__mro__)
