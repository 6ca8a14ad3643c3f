"""From a corpus to domains: embeds documents, clusters them, and counts a target's documents per cluster."""

from lightning_dga.domains.basis import Basis, histogram_basis, reference_similarities
from lightning_dga.domains.cluster import hierarchical_kmeans
from lightning_dga.domains.clusters import Clusters, cluster_corpus, is_clustered, load_clusters
from lightning_dga.domains.embed import embed_corpus
from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.histogram import label_histogram, nearest_domain_histogram
from lightning_dga.domains.sentences import SentenceEmbedding
from lightning_dga.domains.tfidf import TfidfEmbedding
from lightning_dga.domains.tree import ClusterTree

__all__ = [
    "Basis",
    "ClusterTree",
    "Clusters",
    "DomainsError",
    "SentenceEmbedding",
    "TfidfEmbedding",
    "cluster_corpus",
    "embed_corpus",
    "hierarchical_kmeans",
    "histogram_basis",
    "is_clustered",
    "label_histogram",
    "load_clusters",
    "nearest_domain_histogram",
    "reference_similarities",
]
