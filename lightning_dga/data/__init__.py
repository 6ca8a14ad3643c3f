"""From weights to batches: sources, composition, loader and data module."""

from typing import TYPE_CHECKING

from lightning_dga._lazy import lazy
from lightning_dga.data.errors import DataError
from lightning_dga.data.loading.loader import BatchInfo, MixtureLoader
from lightning_dga.data.probes import Probe, ProbeReader, Probes
from lightning_dga.data.sampling.composition import Composition, Draw
from lightning_dga.data.sources import DatasetPerDomain, LabelledDataset, ShuffledOrder, Sources

if TYPE_CHECKING:
    from lightning_dga.data.datamodule import MixtureDataModule

__all__ = [
    "BatchInfo",
    "Composition",
    "DataError",
    "DatasetPerDomain",
    "Draw",
    "LabelledDataset",
    "MixtureDataModule",
    "MixtureLoader",
    "Probe",
    "ProbeReader",
    "Probes",
    "ShuffledOrder",
    "Sources",
]


# the only class that needs Lightning, imported on first use
__getattr__ = lazy(__name__, {"MixtureDataModule": "datamodule"})
