"""Weights to batches: sources, composition, loader and data module. No model in here."""

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


# the one class that needs Lightning, which whoever wants the sampling alone does without
__getattr__ = lazy(__name__, {"MixtureDataModule": "datamodule"})
