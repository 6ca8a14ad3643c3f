"""Token ids on disk: built in parallel, interrupted and resumed, and read as windows."""

import gzip
import json
import os
import pickle
import signal
import time

import numpy as np
import pytest
import torch

from lightning_dga.cli.domains import main
from lightning_dga.data import DataError
from lightning_dga.data.text import END_OF_TEXT_ID, TokenBin, build_bins, pack, token_bins_mixture
from lightning_dga.data.text.builders import bin_builder
from lightning_dga.data.text.readers import json_lines
from lightning_dga.data.text.tokens.tokenizer import load_tokenizer

TEXTS = {
    name: [f"{name} {i} " + "word " * (i % 9) for i in range(120)] for name in ("sea", "sky", "soil", "target_weather")
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = {name: "".join(json.dumps({"text": text}) + "\n" for text in texts) for name, texts in TEXTS.items()}
    (folder / "sea.jsonl").write_text(lines["sea"])
    (folder / "sky.jsonl.gz").write_bytes(gzip.compress(lines["sky"].encode()))
    (folder / "soil").mkdir()
    for number, text in enumerate(TEXTS["soil"]):
        (folder / "soil" / f"{number:03}.txt").write_text(text)
    (folder / "target_weather.jsonl").write_text(lines["target_weather"])
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(json_lines.split_lines, "__defaults__", (800,))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("workers", [1, 3])
def test_every_document_is_there_in_order_and_separated(root, tmp_path, workers):
    build_bins(root, tmp_path / "bins", vocab_size=300, workers=workers)
    tokenizer = load_tokenizer((tmp_path / "bins" / "tokenizer.json").read_text())
    for name, texts in TEXTS.items():
        ids = [token for text in texts for token in [*tokenizer.encode(text).ids, END_OF_TEXT_ID]]
        assert np.fromfile(tmp_path / "bins" / f"{name}.bin", dtype="<u2").tolist() == ids
    assert not (tmp_path / "bins" / "parts").exists()


def test_the_tokenizer_never_sees_a_target(root, tmp_path):
    (root / "target_weather.jsonl").write_text(json.dumps({"text": "qqqqqqqq " * 1000}) + "\n")
    build_bins(root, tmp_path / "bins", vocab_size=400)
    assert "qq" not in load_tokenizer((tmp_path / "bins" / "tokenizer.json").read_text()).get_vocab()


def test_the_same_command_again_does_nothing(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "bins").iterdir()}
    build_bins(root, tmp_path / "bins", vocab_size=300)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "bins").iterdir()} == before


@pytest.mark.parametrize("after", [0, 1, 5, 12])
def test_interrupted_anywhere_it_goes_on(root, tmp_path, monkeypatch, after):
    build_bins(root, tmp_path / "whole", vocab_size=300)
    original, tokenized = bin_builder._tokenize, []

    def interrupted(part):
        if len(tokenized) == after:
            raise KeyboardInterrupt
        tokenized.append(part.output)
        return original(part)

    monkeypatch.setattr(bin_builder, "_tokenize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_bins(root, tmp_path / "bins", vocab_size=300)
    monkeypatch.setattr(bin_builder, "_tokenize", lambda part: tokenized.append(part.output) or original(part))
    build_bins(root, tmp_path / "bins", vocab_size=300)
    assert contents(tmp_path / "bins") == contents(tmp_path / "whole")
    assert len(tokenized) == len(set(tokenized)), "what was finished is not done again"


def test_killed_it_goes_on(root, tmp_path):
    (root / "sea.jsonl").write_text("".join(json.dumps({"text": text * 30}) + "\n" for text in TEXTS["sea"] * 3))
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            build_bins(root, tmp_path / "bins", vocab_size=300, workers=2)
        finally:
            os._exit(1)
    while len(list(tmp_path.glob("bins/parts/*.bin"))) < 5:
        time.sleep(0.001)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (tmp_path / "bins" / "sea.bin").exists()
    build_bins(root, tmp_path / "bins", vocab_size=300)
    build_bins(root, tmp_path / "whole", vocab_size=300)
    again = contents(tmp_path / "bins")
    assert {name: again[name] for name in contents(tmp_path / "whole")} == contents(tmp_path / "whole")


def test_a_folder_of_other_work_is_not_touched(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    with pytest.raises(DataError, match=r"made with other settings.*vocab_size was 300, and is 301"):
        build_bins(root, tmp_path / "bins", vocab_size=301)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds other files"):
        build_bins(root, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"letter.txt": b"dear"}


def test_a_tokenizer_may_be_given(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    file = tmp_path / "bins" / "tokenizer.json"
    build_bins(root, tmp_path / "again", tokenizer=file)
    assert contents(tmp_path / "again")["sea.bin"] == contents(tmp_path / "bins")["sea.bin"]
    file.write_text(file.read_text().replace("<|endoftext|>", "<|other|>"))
    with pytest.raises(DataError, match=r"no token <\|endoftext\|>"):
        build_bins(root, tmp_path / "third", tokenizer=file)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_line_names_domain_file_and_line(root, tmp_path, workers):
    with (root / "sea.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"Domain 'sea': .*sea\.jsonl, line 121: not JSON"):
        build_bins(root, tmp_path / "bins", vocab_size=300, training_documents=10, workers=workers)


def test_a_worker_that_dies_is_an_error_and_not_a_hang(root, tmp_path, monkeypatch):
    monkeypatch.setattr(bin_builder, "_tokenize", _dies)
    with pytest.raises(DataError, match="died"):
        build_bins(root, tmp_path / "bins", vocab_size=300, workers=2)


def _dies(part):
    os._exit(1)


def test_the_command_says_what_is_wrong_in_one_line(root, tmp_path, capsys):
    (root / "sea.jsonl").write_text("\n")
    with pytest.raises(SystemExit):
        main(["tokenize", str(root), str(tmp_path / "bins"), "--vocab-size", "300"])
    assert "dga-domains: Domain 'sea' has no document" in capsys.readouterr().err


def test_windows_are_those_of_packing(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    tokenizer = load_tokenizer((tmp_path / "bins" / "tokenizer.json").read_text())
    expected = pack([tokenizer.encode(text).ids for text in TEXTS["sea"]], 16, END_OF_TEXT_ID)
    windows = TokenBin(tmp_path / "bins" / "sea.bin", 16)
    assert torch.equal(torch.stack([windows[i] for i in range(len(windows))]), torch.from_numpy(expected).long())
    assert -100 in TokenBin(tmp_path / "bins" / "sea.bin", 16, cross_document_targets=False)[0]["targets"]
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_a_worker_process_maps_the_file_itself(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    windows = TokenBin(tmp_path / "bins" / "sea.bin", 16, cross_document_targets=False)
    pickled = pickle.dumps(windows)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled)[3]["inputs"], windows[3]["inputs"])


def test_bins_that_are_cut_off_missing_or_too_short_are_named(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    file = tmp_path / "bins" / "sea.bin"
    with pytest.raises(DataError, match="too few for one window of 100001"):
        TokenBin(file, 100_000)
    with file.open("r+b") as opened:
        opened.truncate(100)
    with pytest.raises(DataError, match=r"sea\.bin: 100 bytes, expected \d+; it is truncated"):
        TokenBin(file, 16)
    with pytest.raises(DataError, match=r"no .*none\.bin.*dga-domains tokenize"):
        TokenBin(tmp_path / "bins" / "none.bin", 16)
    file.with_suffix(".bin.json").write_text("{")
    with pytest.raises(DataError, match="not a description"):
        TokenBin(file, 16)


def test_they_make_a_mixture(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    data = token_bins_mixture(tmp_path / "bins", "weather", batch_size=4, context_length=16, num_workers=1)
    assert data.domain_names == ("sea", "sky", "soil")
    assert next(iter(data.train_dataloader())).shape == (4, 17)
    assert next(iter(data.val_dataloader())).shape[1] == 17
    data.teardown("fit")
    with pytest.raises(DataError, match="the tokenizer has 300 ids, `vocab_size` is 299"):
        token_bins_mixture(tmp_path / "bins", "weather", batch_size=4, vocab_size=299)
    with pytest.raises(DataError, match=r"no target 'snow'\. Targets: 'weather'"):
        token_bins_mixture(tmp_path / "bins", "snow", batch_size=4)


def test_a_tokenizer_that_did_not_make_the_files_is_noticed(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    file = tmp_path / "bins" / "tokenizer.json"
    token_bins_mixture(tmp_path / "bins", "weather", batch_size=1, context_length=4)
    file.write_text(file.read_text() + "\n")
    with pytest.raises(DataError, match=r"sea\.bin: made with another tokenizer"):
        token_bins_mixture(tmp_path / "bins", "weather", batch_size=1, context_length=4)


@pytest.mark.parametrize("name", ["sea.jsonl", "sky.jsonl.gz", "soil/003.txt", "target_weather.jsonl"])
def test_sources_that_were_written_again_are_noticed(root, tmp_path, name):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    before = contents(tmp_path / "bins")
    file = root / name
    content = file.read_bytes()
    # of the same length, so that only its time tells
    file.write_bytes(gzip.compress(gzip.decompress(content).replace(b"word", b"deed")) if "gz" in name else content)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10_000_000))
    domain = name.partition("/")[0].partition(".")[0]
    with pytest.raises(DataError, match=rf"the files of {domain} have changed since.*Remove the folder"):
        build_bins(root, tmp_path / "bins", vocab_size=300)
    assert contents(tmp_path / "bins") == before
    build_bins(root, tmp_path / "others", vocab_size=300)


def test_sources_that_came_or_went_are_noticed(root, tmp_path):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    (root / "moon.jsonl").write_text('{"text": "a"}')
    with pytest.raises(DataError, match="moon is new"):
        build_bins(root, tmp_path / "bins", vocab_size=300)
    (root / "moon.jsonl").unlink()
    (root / "soil" / "119.txt").rename(root / "soil" / "120.txt")
    with pytest.raises(DataError, match="the files of soil have changed"):
        build_bins(root, tmp_path / "bins", vocab_size=300)
    (root / "soil" / "120.txt").rename(root / "soil" / "119.txt")
    (root / "sea.jsonl").rename(tmp_path / "sea.jsonl")
    with pytest.raises(DataError, match="sea is gone"):
        build_bins(root, tmp_path / "bins", vocab_size=300)
    (tmp_path / "sea.jsonl").rename(root / "sea.jsonl")
    build_bins(root, tmp_path / "bins", vocab_size=300)


def test_sources_that_change_between_an_interruption_and_the_next_try_are_noticed(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bin_builder, "_tokenize", _interrupts)
        build_bins(root, tmp_path / "bins", vocab_size=300)
    (root / "sea.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(DataError, match="the files of sea have changed since"):
        build_bins(root, tmp_path / "bins", vocab_size=300)


def _interrupts(part):
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1, "files": "0"}'])
def test_settings_of_another_version_or_damaged(root, tmp_path, content):
    build_bins(root, tmp_path / "bins", vocab_size=300)
    (tmp_path / "bins" / "settings.json").write_text(content)
    with pytest.raises(DataError, match=r"settings\.json .*remove its folder"):
        build_bins(root, tmp_path / "bins", vocab_size=300)
