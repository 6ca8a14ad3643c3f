import numpy as np
import pytest
import torch

from lightning_dga.core.weights import as_weights


def test_a_mapping_is_read_in_the_order_of_the_names():
    assert as_weights({"b": 3, "a": 1}, ("a", "b")).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("values", [[1e308, 1e308], [1e-320, 1e-320], [7, 7], torch.tensor([2, 2]), None])
def test_they_are_normalised_in_float64_at_the_ends_of_the_range_too(values):
    weights = as_weights(values, ("a", "b"))
    assert weights.dtype == torch.float64
    assert weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, float("nan")], "domain 'b' is not finite"),
        ([1.0, float("inf")], "domain 'b' is not finite"),
        ([-1.0, 2.0], "domain 'a' is negative"),
        ([0.0, 0.0], "all zero"),
        ([1.0], "one number for each of the 2 domains"),
        ([[1.0, 1.0]], "one number for each of the 2 domains"),
        ({"a": 1.0}, "misses 'b'"),
        ({"a": 1.0, "b": 1.0, "bb": 1.0}, "unknown domain 'bb'. Did you mean 'b'"),
    ],
)
def test_what_cannot_be_weights_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        as_weights(values, ("a", "b"))


def test_the_users_tensor_is_not_changed_or_shared():
    given = torch.tensor([1.0, 3.0], dtype=torch.float64)
    weights = as_weights(given, ("a", "b"))
    weights[0] = 9
    assert given.tolist() == [1.0, 3.0]


def test_files_of_weights(tmp_path):
    np.save(tmp_path / "weights.npy", np.array([1, 3]))
    (tmp_path / "weights.json").write_text('{"b": 3, "a": 1}')
    for file in (tmp_path / "weights.npy", str(tmp_path / "weights.json")):
        assert as_weights(file, ("a", "b")).tolist() == [0.25, 0.75]


def test_files_that_hold_none_are_named(tmp_path):
    (tmp_path / "list.json").write_text("[1, 3]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.npy").write_text("{")
    np.save(tmp_path / "long.npy", np.ones(3))
    for name, message in {
        "list.json": "`weights`: .*list.json holds a JSON list",
        "broken.json": "broken.json cannot be read",
        "broken.npy": "broken.npy cannot be read",
        "long.npy": "one number for each of the 2 domains",
        "weights.csv": "give numbers, a mapping, or a .json or .npy file",
    }.items():
        with pytest.raises(ValueError, match=message):
            as_weights(str(tmp_path / name), ("a", "b"))
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npy"):
        as_weights(tmp_path / "none.npy", ("a", "b"))
