from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_dga.data import MixtureDataModule
from lightning_dga.data.errors import DataError
from lightning_dga.data.text import TextCorpus, text_mixture, tokenize_corpus


def documents(name, count, seed=0):
    generator = np.random.default_rng(seed)
    return [f"{name} {index}: " + " ".join(map(str, generator.integers(0, 999, 20))) for index in range(count)]


CORPUS = TextCorpus(
    domains={"wiki": documents("wiki", 40), "code": documents("code", 30, 1)},
    target=documents("target", 5, 2),
    val=documents("val", 6, 3),
    test=documents("test", 7, 4),
    name="numbers",
)
SETTINGS = {"batch_size": 4, "vocab_size": 300, "context_length": 16}


def windows(datamodule, name):
    sources = datamodule._sources
    domain = sources.names.index(name)
    return torch.stack([sources.read(domain, index) for index in range(sources.sizes[domain])])


def test_streams_packed_windows():
    datamodule = text_mixture(CORPUS, weights={"wiki": 1, "code": 0}, target_batch_size=3, seed=7, **SETTINGS)
    assert isinstance(datamodule, MixtureDataModule)
    assert datamodule.domain_names == ("wiki", "code")
    assert datamodule.tokens_per_sample == 16
    assert (datamodule.target_batch_size, datamodule.seed) == (3, 7)
    batch = next(iter(datamodule.train_dataloader()))
    assert batch.shape == (4, 17)
    assert batch.dtype == torch.int64
    seen = windows(datamodule, "wiki")
    assert all((seen == sample).all(1).any() for sample in batch)


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_data_is_the_corpus_s_own_in_its_order(part):
    datamodule = text_mixture(CORPUS, **SETTINGS)
    stream = torch.cat([batch[:, 1:].flatten() for batch in getattr(datamodule, f"{part}_dataloader")()]).tolist()
    expected = []
    for text in getattr(CORPUS, part):
        expected += [*datamodule.tokenizer.encode(text).ids, 0]
    assert stream == expected[1 : 1 + len(stream)]
    assert len(expected) - 1 - len(stream) < 16


def test_all_tokens_of_a_domain_are_there_once():
    datamodule = text_mixture(CORPUS, **SETTINGS)
    tokenized = tokenize_corpus(CORPUS, 300)
    text = datamodule.tokenizer.decode(windows(datamodule, "wiki")[:, 1:].flatten().tolist(), skip_special_tokens=False)
    found = [document for document in CORPUS.domains["wiki"] if document in text]
    assert len(found) >= len(CORPUS.domains["wiki"]) - 2
    total = len(tokenized.domains["wiki"].tokens) + 40
    assert len(windows(datamodule, "wiki")) == (total - 1) // 16


def test_cap_keeps_as_many_windows_as_fit():
    capped = text_mixture(CORPUS, tokens_per_domain=200, **SETTINGS)
    assert capped._sources.sizes.tolist() == [12, 12]
    larger, whole = text_mixture(CORPUS, tokens_per_domain=400, **SETTINGS), text_mixture(CORPUS, **SETTINGS)
    assert torch.equal(windows(larger, "wiki")[:12], windows(capped, "wiki"))
    assert torch.equal(windows(whole, "wiki")[:12], windows(capped, "wiki"))
    beyond = text_mixture(CORPUS, tokens_per_domain=10**9, **SETTINGS)
    assert torch.equal(windows(beyond, "code"), windows(whole, "code"))


def test_cap_is_reached_also_where_documents_end_just_there():
    # two tokens each with the separator: eight documents have 16 tokens, of which 15 are predicted
    corpus = replace(CORPUS, domains={**CORPUS.domains, "letters": ["a"] * 50})
    datamodule = text_mixture(corpus, tokens_per_domain=16, **{**SETTINGS, "vocab_size": 257})
    assert datamodule._sources.sizes.tolist() == [1, 1, 1]


def test_cap_does_not_touch_tokenizer_target_and_evaluation():
    capped, whole = text_mixture(CORPUS, tokens_per_domain=64, **SETTINGS), text_mixture(CORPUS, **SETTINGS)
    assert capped.tokenizer.to_str() == whole.tokenizer.to_str()
    for part in ("val", "test"):
        assert len(capped._evaluation[part]) == len(whole._evaluation[part]) > 4


def test_sample_of_a_domain_depends_on_seed_and_name_only():
    def first(domains, name, seed=0):
        # any domain has the same tokenizer: it has all 257 ids and no more
        settings = {**SETTINGS, "vocab_size": 257}
        return windows(
            text_mixture(replace(CORPUS, domains=domains), tokens_per_domain=160, seed=seed, **settings), name
        )

    wiki = CORPUS.domains["wiki"]
    alone = first({"wiki": wiki, "x": documents("x", 9)}, "wiki")
    among = first({"a": documents("a", 50), "b": documents("b", 20), "wiki": wiki}, "wiki")
    assert torch.equal(alone, among)
    assert not torch.equal(alone, first({"wiki": wiki, "x": documents("x", 9)}, "wiki", seed=1))
    assert not torch.equal(alone, first({"wiki2": wiki, "x": documents("x", 9)}, "wiki2"))
    assert not torch.equal(alone[0], first({"wiki": wiki[::-1], "x": documents("x", 9)}, "wiki")[0])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"domains": {**CORPUS.domains, "tiny": ["ab"]}}, "Domain 'tiny' of corpus 'numbers' has 3 tokens"),
        ({"target": ["xyz"]}, "The target of corpus 'numbers' has 4 tokens"),
        ({"target": []}, "The target of corpus 'numbers' has 0 tokens"),
        ({"val": ["q"]}, "Part 'val' of corpus 'numbers' has 2 tokens"),
    ],
)
def test_too_few_tokens_for_a_window(change, what):
    with pytest.raises(DataError, match=f"{what}, too few for one window of 17"):
        text_mixture(replace(CORPUS, **change), **{**SETTINGS, "vocab_size": 257})


def test_no_evaluation_documents_no_evaluation():
    datamodule = text_mixture(replace(CORPUS, val=[], test=[]), **SETTINGS)
    assert datamodule._evaluation == {"val": None, "test": None}


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match=r"`tokens_per_domain` \(15\) is less than one window"):
        text_mixture(CORPUS, tokens_per_domain=15, **SETTINGS)
    with pytest.raises(ValueError, match="`context_length`"):
        text_mixture(CORPUS, **{**SETTINGS, "context_length": 0})


def test_same_from_the_cache(tmp_path):
    plain, *cached = (text_mixture(CORPUS, cache_dir=cache, **SETTINGS) for cache in (None, tmp_path, tmp_path))
    for datamodule in cached:
        assert torch.equal(windows(datamodule, "code"), windows(plain, "code"))
    assert len(list(tmp_path.iterdir())) == 1
