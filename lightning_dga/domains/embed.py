"""Embeds a corpus as vectors in a file, the first stage of a folder of domains."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lightning_dga.atomic import write_json
from lightning_dga.core.document_digest import DocumentDigest
from lightning_dga.domains.embedding import Embedding, load_embedding, save_embedding
from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.kept import read_json
from lightning_dga.domains.resumable_stage import ResumableStage

EMBED = "embed"
VECTORS = "embeddings.npy"
EMBEDDING = "embedding.npz"

_DOCUMENTS_AT_ONCE = 1024


def embed_corpus(
    sources: Mapping[str, Iterable[str]],
    embedding: Embedding,
    folder: Path,
    *,
    settings: dict[str, Any],
    fit_documents: int = 100_000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Embeds the documents of a corpus, in order, and writes ``folder / "embeddings.npy"``, ``[n, d]`` float32.

    Documents are read twice: once to count them and to draw the sample that the embedding is fitted to, and once to
    embed them, a thousand at a time. Memory does not grow with the corpus. After an interruption, the next call
    resumes, and the result is bit-identical.

    Args:
        sources: Documents by the name of their source; each source is iterated twice.
        embedding: The embedding, which is fitted here.
        folder: The folder of domains; created if it does not exist.
        settings: What else the result depends on, as which files and which embedding: compared when work is gone on
            with.
        fit_documents: Maximum number of documents that the embedding is fitted to, drawn at random.
        seed: Seed of the draw.
        overwrite: Whether to replace vectors that the folder holds.
        progress: Whether to show a progress bar.

    Raises:
        DomainsError: If there is no document, or the folder holds vectors made with other settings.
    """
    stage = ResumableStage(folder, EMBED, {**settings, "fit_documents": fit_documents, "seed": seed})
    if overwrite:
        stage.discard()
    if stage.is_whole():
        return
    stage.begin()
    counted = stage.partial / "sources.json"
    if not counted.is_file():
        found: dict[str, Any] = {"documents": dict.fromkeys(sources, 0), "sha256": {}}
        sample = _sample(_counting(sources, found["documents"], found["sha256"], progress), fit_documents, seed)
        if not sample:
            raise DomainsError("There is no document to embed; add documents to the corpus.")
        save_embedding(folder / EMBEDDING, embedding.fit(sample))
        del sample
        write_json(counted, found)
    found = read_json(counted)
    # loaded from the file, so that this process embeds exactly as later readers do
    embedding = load_embedding(folder / EMBEDDING)
    total = sum(found["documents"].values())

    def vectors(done: int) -> Iterator[NDArray[np.float32]]:
        documents = islice(chain.from_iterable(sources.values()), done, total)
        with tqdm(total=total, initial=done, desc="embedding", unit=" documents", disable=not progress) as bar:
            while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
                yield embedding(batch)
                bar.update(len(batch))

    done = stage.fill(folder / VECTORS, (total, embedding.dimensions), vectors)
    if done != total:
        raise DomainsError(
            f"The corpus had {total} documents when counted, and {done} when embedded: it changed on the way. "
            "Run dga-domains embed --overwrite."
        )
    stage.finish({**found, "dimensions": embedding.dimensions})


def _counting(
    sources: Mapping[str, Iterable[str]], counts: dict[str, int], digests: dict[str, str], progress: bool
) -> Iterator[str]:
    with tqdm(desc="reading", unit=" documents", disable=not progress) as bar:
        for name, documents in sources.items():
            digest = DocumentDigest()
            for document in documents:
                counts[name] += 1
                digest.update(document)
                bar.update()
                yield document
            digests[name] = digest.hexdigest()


def _sample(documents: Iterable[str], most: int, seed: int) -> list[str]:
    """Draws documents uniformly without replacement in a single pass (reservoir sampling; Vitter 1985, algorithm R)."""
    generator = np.random.default_rng(seed)
    kept: list[str] = []
    for index, document in enumerate(documents):
        if index < most:
            kept.append(document)
        elif (place := int(generator.integers(index + 1))) < most:
            kept[place] = document
    return kept
