"""A small corpus with topics, for tests of domains."""

import numpy as np

TOPICS = [
    [f"{first}{second}" for second in ("an", "el", "is", "or", "um", "ed", "ot", "ik", "ar", "us", "il", "en")]
    for first in ("ba", "ke", "mi", "to", "ru", "sa", "ge", "no")
]


def sources(documents=240, seed=0):
    """Two sources of short documents; of each document, its topic: the words are of one topic."""
    generator = np.random.default_rng(seed)
    topics = generator.integers(len(TOPICS), size=documents)
    texts = [" ".join(generator.choice(TOPICS[topic], size=12)) for topic in topics]
    half = documents // 2
    return {"first": texts[:half], "second": texts[half:]}, topics


def clouds(n=3000, clusters=40, d=16, seed=0):
    """Unit vectors around some centres, and the centre of each."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((clusters, d))
    of = generator.integers(clusters, size=n)
    vectors = centres[of] + 0.1 * generator.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), of
