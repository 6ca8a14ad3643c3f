import pytest

from lightning_dga.data.errors import DataError
from lightning_dga.data.text import split_target


@pytest.mark.parametrize("count", [*range(3, 70), 1000])
def test_split_is_a_partition_without_an_empty_part(count):
    documents = [str(index) for index in range(count)]
    parts = split_target(documents)
    assert all(parts)
    assert sorted(sum(parts, [])) == sorted(documents)
    assert all(part == sorted(part, key=int) for part in parts)


def test_shares():
    target, val, test = split_target(list(map(str, range(600))))
    assert (len(target), len(val), len(test)) == (200, 100, 300)


def test_blocks_of_neighbours_stay_together():
    target, val, test = split_target(list(map(str, range(60))), block=10)
    assert target == [str(i) for i in [*range(0, 10), *range(40, 50)]]
    assert val == [str(i) for i in range(20, 30)]
    assert test[:10] == [str(i) for i in range(10, 20)]


def test_block_shrinks_only_when_it_must():
    assert [len(part) for part in split_target(["x"] * 30, block=10)] == [10, 10, 10]
    assert split_target(list("abc")) == (["a"], ["c"], ["b"])


def test_too_few_documents():
    with pytest.raises(DataError, match=r"at least 3 documents.*got 2"):
        split_target(["a", "b"])


def test_block_must_be_positive():
    with pytest.raises(ValueError, match="`block`"):
        split_target(["a", "b", "c"], block=0)
