"""The reference model of the recipes."""

from lightning_dga.models.gpt import GPT

__all__ = ["GPT"]
