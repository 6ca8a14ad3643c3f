"""From weights to batches: sources, composition, loader and data module."""

from typing import TYPE_CHECKING

from lightning_dga._lazy import lazy

if TYPE_CHECKING:
    from lightning_dga.data.datamodule import MixtureDataModule
    from lightning_dga.data.errors import DataError
    from lightning_dga.data.loading.loader import BatchInfo, MixtureLoader
    from lightning_dga.data.probes import Probe, ProbeReader, Probes
    from lightning_dga.data.sampling.composition import Composition, Draw
    from lightning_dga.data.sources import DatasetPerDomain, LabelledDataset, ShuffledOrder, Sources

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

_HOMES = {
    "loading.loader": ("BatchInfo", "MixtureLoader"),
    "sampling.composition": ("Composition", "Draw"),
    "errors": ("DataError",),
    "sources": ("DatasetPerDomain", "LabelledDataset", "ShuffledOrder", "Sources"),
    "datamodule": ("MixtureDataModule",),
    "probes": ("Probe", "ProbeReader", "Probes"),
}

# imported on first use, so that a part alone costs only what it needs
__getattr__ = lazy(__name__, {name: home for home, names in _HOMES.items() for name in names})
