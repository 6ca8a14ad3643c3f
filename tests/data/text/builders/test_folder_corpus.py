import json

import pytest

from lightning_dga.data.errors import DataError
from lightning_dga.data.text import folder_corpus, folder_domains, folder_target, split_target


def write(folder, name, *documents):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "wiki", "w1", "w2")
    write(tmp_path, "code", "c1")
    write(tmp_path, "target_math", *map(str, range(9)))
    write(tmp_path, "target_law", "l1", "l2")
    return tmp_path


def test_corpus(folder):
    corpus = folder_corpus(str(folder), "math")
    assert list(corpus.domains.items()) == [("code", ["c1"]), ("wiki", ["w1", "w2"])]
    assert (corpus.target, corpus.val, corpus.test) == split_target(list(map(str, range(9))))
    assert corpus.name == "math"


def test_unknown_target_lists_the_ones_available(folder):
    with pytest.raises(DataError, match=r"no target 'maths'\. Targets: 'law', 'math'"):
        folder_corpus(folder, "maths")


def test_target_too_small_is_named(folder):
    with pytest.raises(DataError, match=r"target_law\.jsonl: 2 documents"):
        folder_corpus(folder, "law")


def test_one_domain_is_no_mixture(folder):
    (folder / "wiki.jsonl").unlink()
    with pytest.raises(DataError, match="at least 2 domains, found 'code'"):
        folder_corpus(folder, "math")


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder_corpus(tmp_path / "nowhere", "math")


def test_broken_domain_names_file_and_line(folder):
    (folder / "code.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"code\.jsonl, line 2"):
        folder_corpus(folder, "math")


def test_a_domain_may_be_a_folder_of_plain_text(folder):
    (folder / "news" / "2024").mkdir(parents=True)
    (folder / "news" / "2024" / "b.txt").write_text("second")
    (folder / "news" / "2023.txt").write_text("first")
    (folder / "pictures").mkdir()
    corpus = folder_corpus(folder, "math")
    assert list(corpus.domains) == ["code", "news", "wiki"]
    assert sorted(corpus.domains["news"]) == ["first", "second"]


def test_two_entries_of_one_name_are_an_error(folder):
    (folder / "wiki").mkdir()
    (folder / "wiki" / "a.txt").write_text("a")
    with pytest.raises(DataError, match="two domains one name"):
        folder_corpus(folder, "math")


def test_few_documents_of_the_target_are_some_of_those_of_more(folder):
    whole = folder_corpus(folder, "math")
    few = [folder_corpus(folder, "math", target_documents=n, target_seed=1) for n in (1, 2, 3)]
    assert [len(corpus.target) for corpus in few] == [1, 2, 3]
    assert set(few[0].target) < set(few[1].target) < set(few[2].target) <= set(whole.target)
    assert all((corpus.val, corpus.test) == (whole.val, whole.test) for corpus in few)
    assert folder_target(folder, "math", target_documents=2, target_seed=1) == few[1].target
    assert len({tuple(folder_target(folder, "math", target_documents=1, target_seed=s)) for s in range(20)}) > 1
    with pytest.raises(DataError, match=r"`target_documents` is 9; .* from 1 to \d to give"):
        folder_corpus(folder, "math", target_documents=9)


def test_domains_are_read_each_time_anew(folder):
    domains = folder_domains(folder)
    assert {name: list(documents) for name, documents in domains.items()} == {"code": ["c1"], "wiki": ["w1", "w2"]}
    assert list(domains["wiki"]) == list(domains["wiki"])
