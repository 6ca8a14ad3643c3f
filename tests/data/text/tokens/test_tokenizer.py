import runpy
import sys
from pathlib import Path

import pytest

import lightning_dga.data.text
from lightning_dga.data.text import END_OF_TEXT, END_OF_TEXT_ID, train_tokenizer
from lightning_dga.data.text.tokens.tokenizer import load_tokenizer

DOCUMENTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 3


def test_round_trip_of_any_text():
    tokenizer = train_tokenizer(DOCUMENTS, 300)
    for text in ("the cat", "  two\n\tlines ", "ü 漢字 🙂 \x00", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_learns_merges_up_to_the_size_asked_for():
    tokenizer = train_tokenizer(DOCUMENTS, 270)
    assert tokenizer.get_vocab_size() == 270
    assert len(tokenizer.encode("the cat sat").ids) < len("the cat sat")
    assert train_tokenizer(DOCUMENTS, 10_000).get_vocab_size() < 10_000
    assert len(train_tokenizer(DOCUMENTS, 257).encode("the cat").ids) == len("the cat")


def test_same_documents_same_tokenizer():
    assert train_tokenizer(DOCUMENTS, 300).to_str() == train_tokenizer(iter(DOCUMENTS), 300).to_str()


@pytest.mark.parametrize("reload", [False, True])
def test_document_that_spells_out_the_separator_is_text(reload):
    tokenizer = train_tokenizer(DOCUMENTS, 300)
    if reload:
        tokenizer = load_tokenizer(tokenizer.to_str())
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    ids = tokenizer.encode(f"a{END_OF_TEXT}b").ids
    assert END_OF_TEXT_ID not in ids
    assert tokenizer.decode(ids) == f"a{END_OF_TEXT}b"


def test_vocabulary_holds_every_byte():
    with pytest.raises(ValueError, match=r"at least 257.*got 256"):
        train_tokenizer(DOCUMENTS, 256)


def test_damaged_serialization():
    with pytest.raises(ValueError, match="Not a serialized tokenizer"):
        load_tokenizer("{}")


@pytest.mark.parametrize(
    "file", sorted(Path(lightning_dga.data.text.__file__).parent.glob("*.py")), ids=lambda f: f.name
)
def test_importing_needs_no_tokenizers(monkeypatch, file):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    runpy.run_path(str(file))


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-dga\[text\]'"):
        train_tokenizer(DOCUMENTS, 300)
