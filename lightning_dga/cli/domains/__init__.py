"""The command ``dga-domains``: turns a corpus into domains, and compares a target with them before a run."""

from lightning_dga.cli.domains.command import main

__all__ = ["main"]
