"""Mixtures of text in one call, as the configs ask for them."""

from pathlib import Path
from typing import Any

from lightning_dga.data.datamodule import MixtureDataModule
from lightning_dga.data.text.folder_corpus import folder_corpus
from lightning_dga.data.text.mixture import text_mixture
from lightning_dga.data.text.standard_library import standard_library_corpus


def folder_mixture(root: str | Path, target: str, **arguments: Any) -> MixtureDataModule:
    """The mixture of a folder of domains and targets.

    Args:
        root: The folder; see :func:`~lightning_dga.data.text.folder_corpus`.
        target: ``<name>`` of the target.
        **arguments: As of :func:`~lightning_dga.data.text.text_mixture`.
    """
    return text_mixture(folder_corpus(root, target), **arguments)


def standard_library_mixture(target_documents: int = 8, **arguments: Any) -> MixtureDataModule:
    """The mixture of the text that ships with Python.

    Args:
        target_documents: Documents in the target set; see :func:`~lightning_dga.data.text.standard_library_corpus`.
        **arguments: As of :func:`~lightning_dga.data.text.text_mixture`.
    """
    return text_mixture(standard_library_corpus(target_documents), **arguments)
