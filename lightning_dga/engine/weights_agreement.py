"""All ranks hold the same weights, at every step."""

import zlib

import torch

from lightning_dga.distributed import Agreement, differing_ranks
from lightning_dga.engine.protocols import Mixture


class WeightsAgreement:
    """Finds ranks whose weights differ from the others', as after ``set_weights`` on one rank alone.

    Args:
        mixture: The mixture.
        device: The device for collectives.
    """

    def __init__(self, mixture: Mixture, device: torch.device) -> None:
        self._mixture = mixture
        self._device = device
        self._agreement = Agreement()
        self._held = (-1, 0)

    def check_step(self, update: int) -> None:
        """Starts a comparison that the next call reads; costs nothing that blocks. Every rank must call it.

        Raises:
            RuntimeError: If the previous comparison found ranks with other weights.
        """
        version = self._mixture.weights_version
        if self._held[0] != version:
            self._held = version, self._checksum()
        if not self._agreement.holds(*self._held):
            self.check(update)

    def check(self, update: int) -> None:
        """Compares now, by one all-reduce of a few numbers.

        Args:
            update: Number of updates done, which must agree too.

        Raises:
            RuntimeError: If ranks hold other weights.
        """
        held = torch.tensor([self._mixture.weights_version, self._checksum(), update])
        others = differing_ranks(held, self._device)
        if others:
            raise RuntimeError(
                f"Ranks {others[:8]} hold other weights than the rest at update {update}; this rank has version "
                f"{self._mixture.weights_version}. Call `set_weights` with the same weights at the same step on every "
                "rank."
            )

    def close(self, update: int) -> None:
        """Reads the last comparison; every rank must call it at the end of training."""
        if not self._agreement.ended():
            self.check(update)
        self._agreement.close()

    def _checksum(self) -> int:
        return zlib.crc32(self._mixture.weights.numpy().tobytes())
