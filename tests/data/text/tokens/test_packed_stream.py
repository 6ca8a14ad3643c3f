import io
import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from lightning_dga import MixtureDataModule
from lightning_dga.data import DataError
from lightning_dga.data.streaming import streams
from lightning_dga.data.text import (
    END_OF_TEXT_ID,
    DocumentStream,
    PackedStream,
    PackedTokens,
    pack,
    separate_documents,
    train_tokenizer,
)
from lightning_dga.data.text.tokens import packed_stream
from tests.helpers.toys import Points

TEXTS = [f"{i} " + "word " * (i % 9) for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture
def documents(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return DocumentStream(tmp_path)


def test_it_is_what_packing_at_once_gives(documents, tokenizer):
    windows = pack([tokenizer.encode(text).ids for text in TEXTS], 16, END_OF_TEXT_ID)
    assert torch.equal(torch.stack(list(PackedStream(documents, tokenizer, 16))), torch.from_numpy(windows).long())


def test_it_goes_on_from_the_state_at_any_window(documents, tokenizer):
    stream = PackedStream(documents, tokenizer, 16)
    whole = list(stream)
    windows = iter(stream)
    for number in range(len(whole)):
        next(windows)
        again = PackedStream(DocumentStream([split.url for split in documents.splits]), tokenizer, 16)
        again.load_state_dict(stream.state_dict())
        rest = list(again)
        assert len(rest) == len(whole) - number - 1
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[number + 1 :], strict=True))


def test_a_run_resumes_within_it(documents, tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "_STATE_EVERY", 4)

    def data():
        domains = {"text": PackedStream(documents, tokenizer, 16), "more": PackedStream(documents, tokenizer, 16)}
        return MixtureDataModule(domains, Points(0, 3), batch_size=4)

    first, resumed = data(), data()
    batches = iter(first.train_dataloader())
    for _ in range(9):
        next(batches)
    resumed.load_state_dict(first.state_dict())
    assert first.state_dict()["streams"]["readers"]
    again = iter(resumed.train_dataloader())
    assert all(torch.equal(next(batches), next(again)) for _ in range(9))


LONG = ["short " * 5, "a long document of many words " * 400, "", "end " * 3]


def long_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in LONG * 3))
    return DocumentStream(tmp_path)


def test_the_state_within_a_long_document_holds_none_of_it_and_leads_back_to_the_very_window(
    tmp_path, tokenizer, monkeypatch
):
    # some states of the twelve documents follow a new state of their stream, and some do not
    monkeypatch.setattr(packed_stream, "_ANCHOR_EVERY", 5)
    stream = PackedStream(long_documents(tmp_path), tokenizer, 16)
    whole = list(stream)
    windows, size = iter(stream), 0
    for number in range(len(whole)):
        next(windows)
        if number % 13 and number % 64 > 2:
            continue
        state = io.BytesIO()
        torch.save(stream.state_dict(), state)
        size = max(size, state.tell())
        state.seek(0)
        again = PackedStream(long_documents(tmp_path), tokenizer, 16)
        again.load_state_dict(torch.load(state, weights_only=True))
        rest = list(again)
        assert len(rest) == len(whole) - number - 1
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[number + 1 :], strict=True))
    # numbers, less than a window of tokens, and what torch writes around them
    assert size < 4096 < 2 * 12_000


def test_documents_of_no_state_are_counted(tokenizer):
    stream = PackedStream(TEXTS, tokenizer, 16)
    whole, windows = list(stream), iter(stream)
    for _ in range(7):
        next(windows)
    again = PackedStream(TEXTS, tokenizer, 16)
    again.load_state_dict(stream.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again, whole[7:], strict=True))


def test_states_of_before_hold_what_was_left_of_a_document(documents, tokenizer):
    whole = list(PackedStream(documents, tokenizer, 16))
    read = iter(documents)
    for _ in range(6):
        next(read)
    ids = [id for text in TEXTS[:6] for id in [*tokenizer.encode(text).ids, END_OF_TEXT_ID]]
    state = {"documents": documents.state_dict(), "left": torch.tensor(ids[16:])}
    again = PackedStream(documents, tokenizer, 16)
    again.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(again, whole[1:], strict=True))


def test_text_that_looks_like_a_separator_is_text_in_a_run_too(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one <|endoftext|> two " * 9}) + "\n")
    stream = PackedStream(DocumentStream(tmp_path), tokenizer, 16)
    data = MixtureDataModule({"text": stream}, Points(0, 3), batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch, torch.stack(list(stream)[:4]))
    assert not (batch == END_OF_TEXT_ID).any()


def test_readers_share_the_tokenizer(documents, tokenizer):
    stream = PackedStream(documents, tokenizer, 16)
    assert deepcopy(stream).tokenizer is stream.tokenizer
    assert deepcopy(stream).documents is not stream.documents


def test_records_are_read_by_their_field(tokenizer):
    records = [{"body": text} for text in TEXTS]
    packed = list(PackedStream(records, tokenizer, 16, field="body"))
    assert all(map(torch.equal, packed, PackedStream(TEXTS, tokenizer, 16)))


def test_targets_stay_within_documents():
    window = torch.tensor([5, 6, 0, 7, 0, 0, 8, 9])
    parts = separate_documents(window, end_of_text=0)
    assert parts["inputs"].tolist() == [5, 6, 0, 7, 0, 0, 8]
    assert parts["targets"].tolist() == [6, 0, -100, 0, -100, -100, 9]
    assert parts["documents"].tolist() == [0, 0, 0, 1, 1, 2, 3]


def test_windows_of_both_kinds_can_be_separated(documents, tokenizer):
    windows = pack([[5, 6, 7], [8, 9]], context_length=4, end_of_text=0)
    (sample,) = PackedTokens(windows, end_of_text=0, cross_document_targets=False)
    assert sample["targets"].tolist() == [6, 7, 0, -100]
    streamed = next(iter(PackedStream(documents, tokenizer, 16, cross_document_targets=False)))
    assert set(streamed) == {"inputs", "targets", "documents"}
    with pytest.raises(ValueError, match="needs `end_of_text`"):
        PackedTokens(np.zeros((1, 3), dtype=int), cross_document_targets=False)


def test_a_context_of_nothing_is_refused(documents, tokenizer):
    with pytest.raises(ValueError, match="`context_length`"):
        PackedStream(documents, tokenizer, 0)


@pytest.mark.parametrize(
    "record, message",
    [
        (
            {"content": "a", "id": 1},
            r"no 'text'; found 'content', 'id'\. Name the key that holds the text with `field`",
        ),
        ({}, "no 'text'; found an empty one"),
        ({"text": None}, "'text' of a record is of type NoneType, expected a string"),
        ({"text": ["a"]}, "'text' of a record is of type list, expected a string"),
        (b"bytes", "A document is of type bytes, expected a string or a record"),
    ],
)
def test_records_without_text_are_named(tokenizer, record, message):
    windows = iter(PackedStream([{"text": "some words"}, record], tokenizer, 2))
    next(windows)
    with pytest.raises(DataError, match=message):
        list(windows)
