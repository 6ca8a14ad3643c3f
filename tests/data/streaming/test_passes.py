"""Shards of any sizes: no sample is repeated before all have been read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.data import DataError
from lightning_dga.data.streaming.passes import Progress, place
from lightning_dga.data.streaming.streams import no_samples


def draw(progress, lengths, points, sizes=None):
    """Shard, and index within its pass, of each sample; and the progress behind them."""
    sizes = np.ones(len(lengths)) if sizes is None else np.array(sizes, dtype=float)

    def has(shard, epoch, position):
        return position < lengths[shard] * (epoch + 1)

    placed = place(progress, np.array(points), sizes, has, lambda: no_samples("wiki"))
    samples = [
        (shard, offset % lengths[shard])
        for shard, offset in zip(placed.shards.tolist(), placed.offsets.tolist(), strict=True)
    ]
    return samples, placed.after


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    data=st.data(),
)
def test_before_a_sample_comes_a_second_time_all_have_come_once(lengths, data):
    every = {(shard, index) for shard, length in enumerate(lengths) for index in range(length)}
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=len(lengths), max_size=len(lengths)))
    progress, samples = Progress.start(len(lengths)), []
    while len(samples) < 3 * len(every):
        points = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=9))
        if data.draw(st.booleans()):
            progress = Progress.from_state_dict(progress.state_dict())
        found, progress = draw(progress, lengths, points, sizes)
        samples += found
    for start in range(0, 3 * len(every), len(every)):
        assert set(samples[start : start + len(every)]) == every


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    points=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=30),
    cut=st.integers(1, 29),
)
def test_where_draws_are_cut_changes_nothing(lengths, points, cut):
    whole, _ = draw(Progress.start(len(lengths)), lengths, points)
    first, progress = draw(Progress.start(len(lengths)), lengths, points[:cut])
    second = draw(progress, lengths, points[cut:])[0] if points[cut:] else []
    assert first + second == whole


def test_within_a_pass_shards_come_in_proportion_to_what_they_are_said_to_hold():
    points = (np.arange(4000) * 0.618034) % 1
    samples, _ = draw(Progress.start(3), [9000, 900, 100], points, sizes=[9000, 900, 100])
    counts = np.bincount([shard for shard, _ in samples])
    # a sequence of low discrepancy: within two of the share
    assert abs(counts - 4000 * np.array([0.9, 0.09, 0.01])).max() <= 2


def test_a_stream_that_gives_nothing_is_an_error_and_not_a_hang():
    with pytest.raises(DataError, match="'wiki' is an iterable that gives no samples"):
        draw(Progress.start(3), [0, 0, 0], [0.5])
