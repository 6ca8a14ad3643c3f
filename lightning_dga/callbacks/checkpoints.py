"""Finds the checkpoint in a folder that a run can resume from: complete, of a training run, and without code.

A checkpoint is a pickle, and Lightning before 2.6 unpickles whatever is in it. A checkpoint returned by this module has
been read with ``torch.load(weights_only=True)`` first, which builds tensors and plain values and executes nothing.
"""

import io
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from lightning_dga._lightning import rank_zero_warn

# keys that Lightning writes for a run that can resume; a weights-only file has no optimizer state
_NEEDED = ("state_dict", "loops", "optimizer_states", "global_step")
# a sharded checkpoint is a folder; these two files are written after its shards
_SHARDS, _REST = ".metadata", "meta.pt"
# the classes allowed in `.metadata`, by module
_DESCRIBES_SHARDS = {
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "collections": ("OrderedDict",),
    # the path that it was written to; which module it is from depends on the Python version
    "pathlib": ("PosixPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath"),
}


class CheckpointError(ValueError):
    """A checkpoint that a run cannot resume from."""


@dataclass(frozen=True)
class _Candidate:
    step: int
    finished: int
    path: Path


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint in a folder with the most optimizer steps; its path can be given to ``fit`` as ``ckpt_path``.

    Checkpoints that cannot be used are skipped with a warning: truncated, damaged, not of a training run, or containing
    objects that require unrestricted unpickling and could therefore execute arbitrary code.

    Args:
        folder: The folder with checkpoints, ``*.ckpt`` files or sharded ``*.ckpt`` folders.

    Returns:
        The path; ``None`` if the folder has no checkpoint.

    Raises:
        CheckpointError: If the folder has checkpoints, and none can be used.
    """
    usable, unusable = [], {}
    for path in sorted(Path(folder).glob("*.ckpt")):
        try:
            usable.append(_Candidate(checkpoint_step(path), path.stat().st_mtime_ns, path))
        except CheckpointError as error:
            unusable[path] = str(error)
    # copying a folder changes modification times, so the step is compared first
    for candidate in sorted(usable, key=lambda one: (one.step, one.finished), reverse=True):
        if (damage := _damage(candidate.path)) is None:
            for reason in unusable.values():
                rank_zero_warn(f"{reason} It is skipped, and the run resumes from {candidate.path}.")
            return candidate.path
        unusable[candidate.path] = damage
    if unusable:
        raise CheckpointError(
            f"{' '.join(unusable.values())} There is no other checkpoint to resume from; remove "
            f"{'it' if len(unusable) == 1 else 'them'} to start over."
        )
    return None


def checkpoint_step(path: Path) -> int:
    """Optimizer steps done when a checkpoint was taken, found without reading its tensors.

    Raises:
        CheckpointError: If it cannot be used.
    """
    return int(read_checkpoint(path)["global_step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint; tensors are memory-mapped and read on use, and tensors in shards are left out.

    Raises:
        CheckpointError: If it cannot be used.
    """
    try:
        if path.is_dir():
            _read_shards(path)
            content = _load(path / _REST)
        else:
            content = _load(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_why_not_unpickled(error)}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # torch raises errors of many types for a malformed file
        raise CheckpointError(f"{path} is damaged, truncated, or not a checkpoint.") from error
    needed = [name for name in _NEEDED if not (path.is_dir() and name in ("state_dict", "optimizer_states"))]
    if not isinstance(content, dict) or any(name not in content for name in needed):
        raise CheckpointError(f"{path} is not a checkpoint of a training run.")
    return content


def _load(file: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of other programs
        # memory-mapping reads only the index of the file; torch can map only the zip format that it writes since 1.6
        return torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)


def _read_shards(folder: Path) -> None:
    """Raises an error if a shard is missing, truncated, or contains anything but data."""
    with (folder / _SHARDS).open("rb") as file:
        described = _ShardsUnpickler(file).load()
    for index, place in described.storage_data.items():
        with (folder / place.relative_path).open("rb") as shard:
            if shard.seek(0, io.SEEK_END) < place.offset + place.length:
                raise EOFError(f"{place.relative_path} is truncated")
            if type(described.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
                # torch unpickles non-tensor entries without restriction, so they are checked here
                shard.seek(place.offset)
                torch.load(io.BytesIO(shard.read(place.length)), map_location="cpu", weights_only=True)


class _ShardsUnpickler(pickle.Unpickler):
    @override
    def find_class(self, module: str, name: str) -> Any:
        if name in _DESCRIBES_SHARDS.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name} was not an allowed global")


def _damage(path: Path) -> str | None:
    """How a checkpoint file is damaged, after reading all of its bytes; ``None`` if it is not."""
    # torch does not verify checksums when it reads, and can be configured not to write them
    if path.is_dir() or not zipfile.is_zipfile(path) or not torch.serialization.get_crc32_options():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged zip index can raise errors of any type
        return f"{path} is damaged or truncated ({error})."
    return None if damaged is None else f"{path} is damaged: the checksum of {damaged} in it does not match."


def _why_not_unpickled(error: pickle.UnpicklingError) -> str:
    said = str(error)
    if "GLOBAL " in said:
        name = said.partition("GLOBAL ")[2].split()[0]
        return (
            f"contains a {name}, which can execute arbitrary code when loaded. If you trust it, allow it first with "
            "`torch.serialization.add_safe_globals`."
        )
    return "is damaged, truncated, or not a checkpoint."
