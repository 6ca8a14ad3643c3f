"""Files in a folder that are not data are skipped; a warning names files that may be data and are not read."""

import json
import logging

import fsspec
import numpy as np
import pytest

from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, build_bins, folder_corpus, folder_domains, read_folder
from lightning_dga.data.text.builders.recipes import token_bins_mixture
from lightning_dga.data.text.readers.listing import _warn_once, is_hidden

HIDDEN = [
    *(".hidden.jsonl", "._wiki.jsonl", ".ipynb_checkpoints/wiki-checkpoint.jsonl", ".git/objects/a.txt", ".DS_Store"),
    *("wiki.jsonl~", "#wiki.jsonl#", ".wiki.jsonl.swp", "wiki.jsonl.tmp", "wiki.jsonl.crdownload", "wiki.jsonl.part"),
    *("_SUCCESS", "_metadata", "__pycache__/a.txt", "_delta_log/00000.json", "_temporary/part-0.jsonl", "Thumbs.db"),
    *("__MACOSX/wiki.jsonl", "desktop.ini", "_committed_123"),
]


@pytest.fixture(autouse=True)
def unwarned():
    _warn_once.cache_clear()


def line(text):
    return json.dumps({"text": text}) + "\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def root(tmp_path):
    """Two domains, one a file and one a folder, and a target; at every level everything that is hidden."""
    folder = tmp_path / "corpus"
    write(folder / "wiki.jsonl", line("w1") + line("w2"))
    write(folder / "news" / "2020" / "a.txt", "n1")
    write(folder / "news" / "b.txt", "n2")
    write(folder / "target_t.jsonl", "".join(line(f"t{i}") for i in range(6)))
    for level in (folder, folder / "news", folder / "news" / "2020"):
        for name in HIDDEN:
            write(level / name, line("hidden"))
    return folder


def test_hidden_files_are_no_data_at_any_level_and_nothing_is_said_of_them(root, caplog):
    corpus = folder_corpus(root, "t")
    assert {name: list(texts) for name, texts in corpus.domains.items()} == {"news": ["n1", "n2"], "wiki": ["w1", "w2"]}
    assert sorted(DocumentStream(root / "news")) == ["n1", "n2"]
    assert sorted(read_folder(root / "news")) == ["n1", "n2"]
    assert list(DocumentStream(root / "*.jsonl"))[-2:] == ["w1", "w2"]
    assert sorted(DocumentStream(f"{root}/**/*.txt")) == ["n1", "n2"]
    assert not caplog.records


def test_hidden_files_are_read_by_their_own_name(root):
    assert list(DocumentStream(root / ".hidden.jsonl")) == ["hidden"]
    assert list(DocumentStream(root / ".ipynb_checkpoints")) == ["hidden"]
    assert list(DocumentStream(root / ".ipynb_checkpoints" / "*.jsonl")) == ["hidden"]
    assert list(DocumentStream(root / "**" / ".hid*.jsonl")) == ["hidden"] * 3
    inside = root / ".cache" / "corpora" / "wiki"
    write(inside / "a.jsonl", line("cached"))
    assert list(DocumentStream(inside)) == ["cached"]


def test_hidden_files_of_a_remote_folder_are_passed_over():
    system = fsspec.filesystem("memory")
    for name in ("a.jsonl", ".b.jsonl", "deep/.ipynb_checkpoints/c.jsonl", "_delta_log/0.json"):
        system.pipe(f"/hidden-test/{name}", line(name).encode())
    assert list(DocumentStream("memory://hidden-test")) == ["a.jsonl"]
    assert list(DocumentStream("memory://hidden-test/*.jsonl")) == ["a.jsonl"]


def test_hidden_files_are_neither_tokenized_nor_mixed(root, tmp_path):
    for name in ("wiki.jsonl", "news/more.jsonl"):
        write(root / name, line("word " * 40))
    write(root / "target_t.jsonl", "".join(line("word " * 20) for _ in range(6)))
    build_bins(root, tmp_path / "bins", vocab_size=300)
    assert {file.stem for file in (tmp_path / "bins").glob("*.bin")} == {"wiki", "news", "target_t"}
    for name in ("._wiki.bin", ".old.bin", "wiki.bin~"):
        (tmp_path / "bins" / name).write_bytes(np.zeros(4, dtype="<u2").tobytes())
    mixture = token_bins_mixture(tmp_path / "bins", "t", batch_size=1, context_length=4)
    assert mixture.domain_names == ("news", "wiki")


@pytest.mark.parametrize(
    "name", ["more.csv", "page.md", "notes.txt", "wiki.jsonl.lz4", "wiki.jsonl.bak", "README", "model/config.yaml"]
)
def test_what_is_not_read_is_named(root, caplog, name):
    write(root / name, "a,b\n1,2\n")
    assert sorted(folder_domains(root)) == ["news", "wiki"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(root) in record.getMessage() and name.partition("/")[0] in record.getMessage()
    folder_domains(root)
    assert len(caplog.records) == 1, "it is said once"


def test_what_is_not_read_of_a_domains_folder_is_named(root, caplog):
    for number in range(9):
        write(root / "news" / "2020" / f"{number}.md", "text")
    assert sorted(DocumentStream(root / "news")) == ["n1", "n2"]
    assert "2020/0.md, 2020/1.md" in caplog.text and "and 4 more" in caplog.text
    write(root / "empty" / "a.csv", "text")
    with pytest.raises(FileNotFoundError, match=r"a\.csv cannot be read"):
        DocumentStream(root / "empty")


@pytest.mark.parametrize(
    "name", ["law.json", "law.json.gz", "law.ndjson", "law.JSONL", "LAW.Jsonl.GZ", "law.jsonlines"]
)
def test_lines_by_another_name_are_read(root, name, caplog):
    import gzip

    content = line("l1").encode()
    (root / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    domains = folder_domains(root)
    assert list(domains[name.partition(".")[0]]) == ["l1"]
    assert not caplog.records


@pytest.mark.parametrize(
    "content", ['[\n {"text": "a"}\n]', '[{"text": "a"}]', '{\n "wiki": 0.5\n}\n', "", '"text"', "\0"]
)
def test_json_that_is_no_lines_is_named_and_no_domain(root, caplog, content):
    write(root / "weights.json", content)
    assert sorted(folder_domains(root)) == ["news", "wiki"]
    assert "weights.json" in caplog.text
    with pytest.raises(DataError, match=r"weights\.json, line 1") if content else pytest.raises(StopIteration):
        next(iter(DocumentStream(root / "weights.json")))


def test_linked_folders_are_read_and_loops_are_not_followed_for_ever(root, tmp_path):
    write(tmp_path / "elsewhere" / "a.jsonl", line("far"))
    (root / "law").symlink_to(tmp_path / "elsewhere")
    (root / "news" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "news" / "loop").symlink_to(root / "news")
    (root / "itself").symlink_to(root)
    domains = folder_domains(root)
    assert sorted(domains) == ["law", "news", "wiki"]
    assert list(domains["law"]) == ["far"]
    assert sorted(domains["news"]) == ["far", "n1", "n2"]


def test_a_target_that_is_a_domain_too_is_told_of(root, caplog):
    (root / "target_wiki.jsonl").symlink_to(root / "target_t.jsonl")
    folder_corpus(root, "wiki")
    assert not caplog.records
    write(root / "law.jsonl", "".join(line(f"l{i}") for i in range(6)))
    (root / "target_law.jsonl").symlink_to(root / "law.jsonl")
    folder_corpus(root, "law")
    assert "'target_law.jsonl' and domain 'law' are the same file" in caplog.text


def test_names_that_patterns_would_be_are_names(root):
    for name in ("a[1]", "what?", "50% of #2", "a=b,c", "dot.ted", "dash-", "ü 'x'"):
        write(root / f"{name}.jsonl", line(name))
        assert list(folder_domains(root)[name]) == [name]
        assert list(DocumentStream(root / f"{name}.jsonl")) == [name]


def test_names_that_only_look_hidden_are_data():
    assert not any(map(is_hidden, ("_wiki.jsonl", "SUCCESS", "wiki.partial.jsonl", "wiki~old.jsonl", "metadata.jsonl")))
