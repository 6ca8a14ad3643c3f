"""Compares the mixture of a checkpoint with the one that resumes from it."""

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.core.weights import as_weights

# with more domains than this, a checkpoint contains only a checksum of the sizes
_SIZES_KEPT = 4096
# whether a callback moves the weights: what becomes of initial weights that are not the checkpoint's
OTHER_WEIGHTS = {
    True: "`weights` are others than the checkpoint's run began with, and the checkpoint's are used, which the "
    "callback has moved since; to change them, call `datamodule.set_weights` in `on_train_start`",
    False: "`weights` are others than the checkpoint's run began with, and hold from the next batch on",
}


def description(
    given: Tensor, sizes: NDArray[np.int64], targets: dict[str, int], seed: int, batch: int
) -> dict[str, Any]:
    """The settings of a mixture, as stored in a checkpoint; small for any number of domains.

    Args:
        given: Initial weights given by the user, ``[k]`` float64.
        sizes: Number of samples in each domain, ``[k]``.
        targets: Number of samples in each target.
        seed: Seed of the sequence.
        batch: Batch size over all ranks.
    """
    kept = {"sizes": torch.from_numpy(sizes.copy())} if len(sizes) <= _SIZES_KEPT else {}
    return kept | {
        "given": zlib.crc32(given.numpy().tobytes()),
        "sizes_checksum": zlib.crc32(sizes.tobytes()),
        "targets": dict(targets),
        "seed": seed,
        "batch": batch,
    }


def differences(saved: dict[str, Any], now: dict[str, Any], names: tuple[str, ...], position: int) -> list[str]:
    """The settings of a resumed run that differ from the checkpoint's, with the consequences; without the weights.

    Args:
        saved: The :func:`description` in the checkpoint; an older one may lack parts.
        now: The description of the resumed run, with the same domains.
        names: The domain names.
        position: Samples trained on so far.
    """
    found = []
    if saved.get("seed", now["seed"]) != now["seed"]:
        found.append(
            f"`seed` is {now['seed']}, {saved['seed']} in the checkpoint: the new seed orders the stream from here "
            "on, so in the current epoch of each domain some samples are repeated and some are left out"
        )
    if saved.get("batch", now["batch"]) != now["batch"]:
        found.append(
            f"a batch over all ranks has {now['batch']} samples, {saved['batch']} in the checkpoint: the stream "
            f"continues at sample {position}, while Lightning continues to count batches and steps"
        )
    if saved.get("sizes_checksum", now["sizes_checksum"]) != now["sizes_checksum"]:
        found.append(
            f"domains have other numbers of samples than in the checkpoint{_changed_sizes(saved, now, names)}: each "
            "continues after as many samples as were drawn from it, in an order for its new size"
        )
    if saved.get("targets") and now["targets"] and saved["targets"] != now["targets"]:
        found.append(f"the target has {now['targets']} samples, {saved['targets']} in the checkpoint")
    return found


def for_domains(
    state: dict[str, Any], names: tuple[str, ...], chosen: Tensor | None, *, steered: bool
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A data module's state and settings for the present domains, and how they differ from the checkpoint's, in words.

    Args:
        state: The state in the checkpoint.
        names: The present domains.
        chosen: Their initial weights as given by the user, ``[k]`` float64.
        steered: Whether a callback holds state for each domain too.

    Raises:
        ValueError: If the domains are others, and ``steered``.
    """
    settings = {"seed": state["composition"]["seed"], **state.get("settings", {})}
    if tuple(state["domain_names"]) == names:
        return state, settings, []
    told = _other_domains(state["domain_names"], names)
    if steered:
        raise ValueError(
            f"The checkpoint is of other domains than this data module ({told}), and its callback holds a state for "
            "each: give `domains` as in the run that is resumed, or start a new run from the model's weights."
        )
    weights = as_weights(_shares_by_name(state, names) if chosen is None else chosen, names)
    kept = {name: settings[name] for name in ("seed", "batch", "targets") if name in settings}
    return _by_name(state, names, weights), kept, [told]


def of_another_class(trainer: Any, own: str) -> tuple[dict[str, Any] | None, str]:
    """What a data module class of another name left in a checkpoint, which Lightning ignores; and a warning."""
    try:
        checkpoint = trainer.strategy.load_checkpoint(trainer.ckpt_path)
    except Exception as error:  # a strategy with a format of its own
        return None, f"The checkpoint {trainer.ckpt_path} cannot be searched for a mixture ({error})."
    for name, state in checkpoint.items():
        if isinstance(state, dict) and {"domain_names", "composition", "streams"} <= state.keys():
            return state, f"{own} takes the state of the data module {name!r}: the checkpoint has none of {own!r}."
    return None, (
        f"The checkpoint {trainer.ckpt_path} holds no state of a mixture, so {own} begins with the first sample of "
        "every domain. It was written by a run without a MixtureDataModule."
    )


def _other_domains(before: list[str], now: tuple[str, ...]) -> str:
    """A description of the domains that were added and removed."""
    fresh, gone = [name for name in now if name not in set(before)], [name for name in before if name not in set(now)]
    if not fresh and not gone:
        return "the domains are in another order"
    parts = [f"{_listed(fresh)} new and begin at their first sample"] if fresh else []
    return "; ".join([*parts, f"{_listed(gone)} gone"] if gone else parts)


def _by_name(state: dict[str, Any], names: tuple[str, ...], weights: Tensor) -> dict[str, Any]:
    """A data module's state for other domains: those that stay keep their counts, new ones start at zero.

    Args:
        state: The state of a data module.
        names: The present domains.
        weights: Their initial weights, ``[k]`` float64.
    """
    before = {name: index for index, name in enumerate(state["domain_names"])}
    after = {name: index for index, name in enumerate(names)}
    moved = {index: after[name] for name, index in before.items() if name in after}
    source = torch.tensor([before.get(name, -1) for name in names])
    stays = source >= 0
    composition = dict(state["composition"])
    old_counts = composition["counts"]
    counts = torch.where(stays, old_counts[source.clamp(min=0)], 0)
    old_ids = composition.get("ids", torch.arange(len(before)))
    # a domain's order depends on its id, which therefore never changes
    unused = int(max(old_ids.max().item() + 1, composition.get("next_id", 0)))
    fresh = unused + torch.cumsum(~stays, 0) - 1
    newest = composition["segments"][-1]
    position = int(composition["position"])
    segment = {"start": position, "set_at": position, "version": int(newest["version"]) + 1, "weights": weights}
    composition |= {
        "counts": counts,
        "segments": [segment],
        "ids": torch.where(stays, old_ids[source.clamp(min=0)], fresh),
        "next_id": unused + int((~stays).sum()),
    }
    return state | {
        "domain_names": list(names),
        "composition": composition,
        "streams": _streams_by_name(state["streams"], moved),
    }


def _shares_by_name(state: dict[str, Any], names: tuple[str, ...]) -> Tensor:
    """Weights for other domains than a state's: old domains keep their relative shares, new ones get ``1 / k`` each.

    Returns:
        Weights, ``[k]`` float64, not normalised.
    """
    newest = state["composition"]["segments"][-1]["weights"]
    before = dict(zip(state["domain_names"], newest.tolist(), strict=True))
    kept = [before[name] for name in names if name in before]
    each = 1 / len(names)
    scale = (len(kept) * each) / sum(kept) if sum(kept) > 0 else 0.0
    return torch.tensor([before[name] * scale if name in before else each for name in names], dtype=torch.float64)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"domain {shown} is" if len(names) == 1 else f"domains {shown} are"


def _streams_by_name(streams: dict[str, Any], moved: dict[int, int]) -> dict[str, Any]:
    if not streams:
        return streams
    # older states contain only counts
    drawn = {
        name: {str(moved[int(d)]): value for d, value in streams[name].items() if int(d) in moved}
        for name in ("progress", "counts")
        if name in streams
    }
    readers = {}
    for key, value in streams["readers"].items():
        domain, _, shard = key.partition("/")
        if int(domain) in moved:
            readers[f"{moved[int(domain)]}/{shard}"] = value
    return streams | drawn | {"readers": readers}


def _changed_sizes(saved: dict[str, Any], now: dict[str, Any], names: tuple[str, ...]) -> str:
    if "sizes" not in saved or "sizes" not in now:
        return ""
    changed = (saved["sizes"] != now["sizes"]).nonzero().flatten().tolist()
    shown = ", ".join(f"{names[i]!r} {saved['sizes'][i]} → {now['sizes'][i]}" for i in changed[:4])
    return f" ({shown}{', …' if len(changed) > 4 else ''})"
