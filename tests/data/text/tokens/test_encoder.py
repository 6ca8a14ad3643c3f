"""Users' tokenizers: every token of a document is encoded, and no other."""

import copy
import json
import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentEncoder, PackedStream, build_bins, token_bins_mixture, train_tokenizer
from lightning_dga.data.text.tokens.token_bin import BinDescription, read_documents

TEXTS = ["one", "two three " * 30, "four five six seven", "eight"]


@pytest.fixture
def plain():
    return train_tokenizer(TEXTS, 300)


def truncating(tokenizer):
    tokenizer.enable_truncation(4)


def padding(tokenizer):
    tokenizer.enable_padding(pad_id=7, pad_token="!", length=64)


def both(tokenizer):
    tokenizer.enable_truncation(8, stride=2)
    tokenizer.enable_padding()


def framing(tokenizer):
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)


@pytest.fixture(params=[truncating, padding, both, framing])
def spoiled(request, plain):
    tokenizer = Tokenizer.from_str(plain.to_str())
    request.param(tokenizer)
    return tokenizer


def words(*vocabulary, **arguments):
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, **arguments))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def corpus(folder, texts=TEXTS):
    folder.mkdir()
    for name in ("wiki", "code", "target_t"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def streamed(tokenizer, texts=TEXTS, **arguments):
    stream = PackedStream(texts, tokenizer, 1, **arguments)
    windows = [window.tolist() for window in stream]
    return [windows[0][0], *(window[1] for window in windows)]


def test_what_a_tokenizer_was_saved_with_for_other_uses_does_not_count(tmp_path, plain, spoiled):
    before = spoiled.to_str()
    expected = [plain.encode(text).ids for text in TEXTS]
    spoiled.save(str(tmp_path / "other.json"))
    build_bins(corpus(tmp_path / "in"), tmp_path / "bins", tokenizer=tmp_path / "other.json")
    assert [ids.tolist() for ids in read_documents(tmp_path / "bins" / "wiki.bin")] == expected
    assert streamed(spoiled) == sum([[*ids, 0] for ids in expected], [])
    assert token_bins_mixture(tmp_path / "bins", "t", batch_size=1, context_length=1).tokenizer.truncation is None
    assert spoiled.to_str() == before and not spoiled.encode_special_tokens


def test_a_stream_sent_to_a_process_encodes_alike(plain):
    texts = ["a <|endoftext|> b", "c"]
    for send in (copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))):
        stream = send(PackedStream(texts, plain, 1))
        assert [window.tolist() for window in stream] == [window.tolist() for window in PackedStream(texts, plain, 1)]
        assert sum(0 in window.tolist()[1:] for window in stream) == len(texts)


def test_what_transformers_has(plain, spoiled, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs a Python that transformers 5 supports")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=spoiled, eos_token="<|endoftext|>")
    fast("one two", truncation=True, max_length=1)
    expected = sum([[*plain.encode(text).ids, 0] for text in TEXTS], [])
    state = fast.backend_tokenizer.to_str()
    assert streamed(fast) == expected
    assert fast.backend_tokenizer.to_str() == state
    fast.save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved", str(tmp_path / "saved" / "tokenizer.json")):
        assert streamed(path) == expected
    named = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="!")
    assert DocumentEncoder(named).end_of_text == plain.token_to_id("!")
    named.save_pretrained(tmp_path / "named")
    assert DocumentEncoder(tmp_path / "named").end_of_text == plain.token_to_id("!")


def test_what_is_no_tokenizer(tmp_path, plain):
    for wrong in (print, None, plain.to_str):
        with pytest.raises(TypeError, match=r"`tokenizer` is of type .*give a `tokenizers\.Tokenizer`"):
            DocumentEncoder(wrong)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer .*save_pretrained"):
        DocumentEncoder("gpt2")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: Not a serialized tokenizer"):
        DocumentEncoder(tmp_path)


@pytest.mark.parametrize("name", ["</s>", "<|end_of_text|>", "<eos>", "[SEP]"])
def test_the_separator_is_the_one_that_the_tokenizer_has(tmp_path, name):
    tokenizer = words("one", "two", name, unk_token="one")
    assert DocumentEncoder(tokenizer).end_of_text == 2
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    build_bins(corpus(tmp_path / "in", ["two two"] * 3), tmp_path / "bins", tokenizer=tmp_path / "tokenizer.json")
    assert BinDescription.read(tmp_path / "bins" / "wiki.bin").end_of_text == 2
    mixture = token_bins_mixture(tmp_path / "bins", "t", batch_size=1, context_length=2)
    assert next(iter(mixture.val_dataloader())).tolist() == [[1, 1, 2]]


def test_a_separator_may_be_named_and_has_to_be_known():
    tokenizer = words("one", "two", "three", unk_token="one")
    with pytest.raises(DataError, match=r"no token <\|endoftext\|>.*`end_of_text`"):
        PackedStream(TEXTS, tokenizer, 1)
    assert streamed(tokenizer, ["two two"] * 2, end_of_text="three") == [1, 1, 2, 1, 1, 2]
    assert streamed(tokenizer, ["two two"] * 2, end_of_text=9) == [1, 1, 9, 1, 1, 9]
    with pytest.raises(DataError, match="no token four"):
        PackedStream(TEXTS, tokenizer, 1, end_of_text="four")
    with pytest.raises(ValueError, match="`end_of_text` must be an id"):
        PackedStream(TEXTS, tokenizer, 1, end_of_text=-1)


def test_a_document_that_spells_the_separator_does_not_end_there():
    # the word is in the model's vocabulary, as Llama's </s> is, and not only among the special tokens
    tokenizer = words("<unk>", "a", "b", "</s>", unk_token="<unk>")
    tokenizer.add_special_tokens(["</s>"])
    encoder = DocumentEncoder(tokenizer)
    assert encoder.encode("a </s> b") == [1, 0, 0, 2]
    assert encoder.encode_batch(["</s>", "a </s> </s> b", "a"]) == [[0, 0], [1, 0, 0, 0, 0, 2], [1]]


def test_a_tokenizer_that_takes_the_unknown_for_the_separator_is_refused():
    tokenizer = words("<|endoftext|>", "a", unk_token="<|endoftext|>")
    assert DocumentEncoder(tokenizer).encode("a a") == [1, 1]
    with pytest.raises(DataError, match=r"encodes text of a document .* as '<\|endoftext\|>', its separator"):
        DocumentEncoder(tokenizer).encode("a b")


def test_a_tokenizer_that_drops_or_refuses_text_is_named(tmp_path):
    bytes_only = Tokenizer(models.BPE({"a": 0, "b": 1, "</s>": 2}, []))
    assert DocumentEncoder(bytes_only).encode_batch(["ab", "", " \n"]) == [[0, 1], [], []]
    with pytest.raises(DataError, match=r"drops all of a document of 2 characters \('中文'\)"):
        DocumentEncoder(bytes_only).encode("中文")
    without_unknown = words("a", "</s>")
    with pytest.raises(DataError, match="cannot encode a document"):
        DocumentEncoder(without_unknown).encode("c")
    bytes_only.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="Domain 'code': The tokenizer drops"):
        build_bins(corpus(tmp_path / "in", ["中文"]), tmp_path / "bins", tokenizer=tmp_path)


def test_empty_documents_are_a_separator_alone_in_bins_and_streams(tmp_path, plain):
    texts = ["", "one", "", ""]
    plain.save(str(tmp_path / "tokenizer.json"))
    build_bins(corpus(tmp_path / "in", texts), tmp_path / "bins", tokenizer=tmp_path / "tokenizer.json")
    expected = [0, *plain.encode("one").ids, 0, 0, 0]
    assert np.fromfile(tmp_path / "bins" / "wiki.bin", "<u2").tolist() == expected == streamed(plain, texts)


@pytest.mark.parametrize("beyond, dtype", [(65_535, "uint16"), (65_536, "uint32"), (3_000_000, "uint32")])
def test_ids_with_gaps_fit(tmp_path, beyond, dtype):
    tokenizer = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1, "far": beyond}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert DocumentEncoder(tokenizer).largest_id == beyond
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    build_bins(corpus(tmp_path / "in", ["far a"] * 3), tmp_path / "bins", tokenizer=tmp_path)
    assert BinDescription.read(tmp_path / "bins" / "wiki.bin").dtype == dtype
    assert [ids.tolist() for ids in read_documents(tmp_path / "bins" / "wiki.bin")] == [[beyond, 1]] * 3
    assert streamed(tokenizer, ["far a"]) == [beyond, 1, 0]
    with pytest.raises(DataError, match=rf"has {beyond + 1} ids, `vocab_size` is {beyond}"):
        token_bins_mixture(tmp_path / "bins", "t", batch_size=1, context_length=2, vocab_size=beyond)


class _AsItIs:
    def pre_tokenize(self, text):
        """Does not split words."""


def test_a_part_in_python_is_used_as_it_is(plain):
    plain.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(_AsItIs())
    assert DocumentEncoder(plain).tokenizer is plain
    plain.enable_truncation(3)
    with pytest.raises(TypeError, match=r"cannot be copied .*no_truncation"):
        DocumentEncoder(plain)
