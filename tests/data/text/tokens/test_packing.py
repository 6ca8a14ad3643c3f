import pickle

import numpy as np
import pytest
import torch

from lightning_dga.data.text import PackedTokens, pack


def documents(sizes, seed=0, high=1000):
    generator = np.random.default_rng(seed)
    return [generator.integers(1, high, size).tolist() for size in sizes]


@pytest.mark.parametrize("sizes", [[100], [0, 5, 17, 0, 1], [128, 128], [1] * 50])
@pytest.mark.parametrize("context_length", [1, 2, 7, 16])
def test_every_token_but_the_first_is_predicted_once(sizes, context_length):
    docs = documents(sizes)
    stream = [token for doc in docs for token in [*doc, 0]]
    windows = pack(docs, context_length, end_of_text=0)
    predicted = windows[:, 1:].ravel().tolist()
    assert windows.shape == ((len(stream) - 1) // context_length, context_length + 1)
    assert predicted == stream[1 : 1 + len(predicted)]
    assert len(stream) - 1 - len(predicted) < context_length
    assert (windows[1:, 0] == windows[:-1, -1]).all()
    assert windows[0, 0] == stream[0]


def test_one_window_exactly_and_one_token_short():
    assert pack([[1, 2, 3]], 3, 0).tolist() == [[1, 2, 3, 0]]
    assert pack([[1, 2]], 3, 0).shape == (0, 4)
    assert pack([], 3, 0).shape == (0, 4)


@pytest.mark.parametrize(
    ("largest", "end", "dtype"),
    [(65535, 0, np.uint16), (65536, 0, np.uint32), (5, 65536, np.uint32), (2**32 - 1, 0, np.uint32)],
)
def test_smallest_type_that_holds_the_ids(largest, end, dtype):
    for ids in ([1, largest], np.array([1, largest], dtype=np.uint32)):
        windows = pack([ids], 2, end)
        assert windows.dtype == dtype
        assert windows.tolist() == [[1, largest, end]]


@pytest.mark.parametrize("ids", [[-1, 2], [2**32, 2]])
def test_ids_out_of_range(ids):
    with pytest.raises(ValueError, match="between 0 and"):
        pack([ids], 2, 0)


def test_windows_own_their_memory():
    windows = pack(documents([100]), 4, 0)
    windows[0, -1] = 7
    assert windows.flags.c_contiguous
    assert windows[1, 0] != 7 or pack(documents([100]), 4, 0)[1, 0] == 7


def test_context_length_must_be_positive():
    with pytest.raises(ValueError, match="`context_length`"):
        pack([[1, 2]], 0, 0)


def test_data_set_of_windows():
    windows = pack(documents([100], high=65535), 8, 0)
    data = PackedTokens(windows)
    assert len(data) == len(windows) == 12
    assert data.tokens == 96
    assert data[3].dtype == torch.int64
    assert data[3].tolist() == windows[3].tolist()
    with pytest.raises(IndexError):
        data[12]


def test_file_is_memory_mapped_also_after_pickling(tmp_path):
    file = tmp_path / "windows.npy"
    np.save(file, pack(documents([5000]), 8, 0))
    data = PackedTokens(file)
    sent = pickle.dumps(data)
    assert len(sent) < 1000
    for copy in (data, pickle.loads(sent), PackedTokens(str(file))):
        assert isinstance(copy._windows, np.memmap)
        assert torch.equal(copy[5], torch.from_numpy(np.load(file)[5].astype(np.int64)))


def test_array_survives_pickling():
    data = PackedTokens(pack(documents([100]), 8, 0))
    assert torch.equal(pickle.loads(pickle.dumps(data))[5], data[5])


@pytest.mark.parametrize("windows", [np.zeros(5, int), np.zeros((5, 1), int), np.zeros((5, 4))])
def test_other_arrays_are_refused(windows):
    with pytest.raises(ValueError, match="must be integers"):
        PackedTokens(windows)
