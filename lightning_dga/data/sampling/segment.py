"""A stretch of the stream under one set of weights."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(eq=False)
class WeightsSegment:
    """A set of weights, with the positions in the stream where they were set and took effect.

    Attributes:
        start: Index of the first sample drawn under these weights.
        set_at: Number of samples handed to training when the weights were set.
        version: Number of times that the weights had been set, including this one.
        weights: The weights, ``[k]`` float64 on the simplex.
        ideal: Ideal number of samples of each domain at ``start``, ``[k]`` float64; ``None`` if the sampling method
            does not track it, or the stream has not reached ``start``.
    """

    start: int
    set_at: int
    version: int
    weights: NDArray[np.float64]
    ideal: NDArray[np.float64] | None = None

    @cached_property
    def cumulative(self) -> NDArray[np.float64]:
        """Running sum of the weights, ``[k]`` float64."""
        return np.cumsum(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """The fields, as stored in a checkpoint."""
        state = {"start": self.start, "set_at": self.set_at, "version": self.version}
        arrays = {"weights": self.weights, "ideal": self.ideal}
        return state | {name: torch.from_numpy(a.copy()) for name, a in arrays.items() if a is not None}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "WeightsSegment":
        """The segment that :meth:`state_dict` was taken of."""
        arrays = {
            name: state[name].numpy().astype(np.float64, copy=True) for name in ("weights", "ideal") if name in state
        }
        start = int(state["start"])
        return cls(start, int(state.get("set_at", start)), int(state["version"]), **arrays)
