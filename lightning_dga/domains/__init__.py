"""Corpus to domains: embed documents, and count which domains a target falls into. No model, no Trainer."""

from lightning_dga.domains.embed import TfidfEmbedding
from lightning_dga.domains.histogram import nearest_domain_histogram

__all__ = ["TfidfEmbedding", "nearest_domain_histogram"]
