"""The command ``dga-domains``: from a corpus to domains, and what to know of them before a run."""

from lightning_dga.cli.domains.command import main

__all__ = ["main"]
