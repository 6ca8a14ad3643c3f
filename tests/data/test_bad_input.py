"""What goes wrong with data while it is streamed: a clear error and no hang, and nothing is lost by it.

Bad labels, names, samples and streams: `test_sources.py`, `test_sharded_streams.py`; weights: `test_weights.py`; files:
`text/readers/test_documents.py`, `text/readers/test_document_stream.py`, `text/builders/test_bin_builder.py`.
"""

import os
import signal
import time

import fsspec
import pytest

from lightning_dga import MixtureDataModule
from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, PackedStream, train_tokenizer
from tests.helpers.toys import Points, mixture


def samples(batches, count):
    return [next(batches)[2].tolist() for _ in range(count)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_domain_smaller_than_a_batch_is_repeated_evenly(num_workers):
    data = MixtureDataModule(
        {"tiny": Points(0, 3), "big": Points(1, 90)}, Points(0, 3), batch_size=8, num_workers=num_workers
    )
    data.set_weights([1, 0])
    drawn = [index for batch in samples(iter(data.train_dataloader()), 9) for _, index in batch]
    data.teardown("fit")
    assert sorted(drawn) == sorted(list(range(3)) * 24)
    assert data.epochs_seen.tolist() == [24, 0]


@pytest.mark.parametrize("bad", [[1, float("nan"), 1], [1, -1, 1], [0, 0, 0], [1, 1], {"domain0": 1}])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_weights_leave_the_run_as_it_is(bad, num_workers):
    data, undisturbed = mixture(num_workers=num_workers), mixture()
    batches, expected = iter(data.train_dataloader()), iter(undisturbed.train_dataloader())
    seen = samples(batches, 3)
    with pytest.raises(ValueError, match="`weights`"):
        data.set_weights(bad)
    assert data.weights_version == 0
    assert seen + samples(batches, 5) == samples(expected, 8)
    data.teardown("fit")


def test_a_worker_that_is_killed_is_an_error_from_which_a_run_goes_on():
    data, whole = mixture(num_workers=2), mixture()
    batches = iter(data.train_dataloader())
    seen = samples(batches, 4)
    workers = data._loader._batches._workers
    os.kill(workers[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
        while True:
            seen += samples(batches, 1)
    assert time.monotonic() - started < 600
    state = data.state_dict()
    data.teardown("fit")
    resumed = mixture(num_workers=2)
    resumed.load_state_dict(state)
    seen += samples(iter(resumed.train_dataloader()), 5)
    resumed.teardown("fit")
    assert seen == samples(iter(whole.train_dataloader()), len(seen))


def test_a_worker_that_hangs_is_an_error_after_the_timeout():
    class Stuck(Points):
        def __getitem__(self, index):
            time.sleep(3)

    data = MixtureDataModule({"a": Stuck(0, 9)}, Points(0, 3), batch_size=2, num_workers=1, timeout=1)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="timed out after 1"):
        next(iter(data.train_dataloader()))
    data.teardown("fit")
    assert time.monotonic() - started < 600


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """Tests may run as a user who may read everything, so the system's refusal is made up."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    stream = DocumentStream(tmp_path / "a.jsonl")

    def refused(*arguments, **rest):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.jsonl"))

    monkeypatch.setattr(fsspec, "open", refused)
    data = MixtureDataModule({"wiki": stream}, Points(0, 3), batch_size=2)
    with pytest.raises(DataError, match=r"'wiki', sample 0: .*a\.jsonl: cannot be read \(PermissionError"):
        next(iter(data.train_dataloader()))


def test_a_file_that_disappears_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    stream = DocumentStream(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").unlink()
    data = MixtureDataModule({"wiki": stream}, Points(0, 3), batch_size=2)
    with pytest.raises(DataError, match=r"'wiki', sample 0: .*a\.jsonl: cannot be read \(FileNotFoundError"):
        next(iter(data.train_dataloader()))


def test_documents_too_short_for_one_window_are_an_error_and_not_a_hang(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    stream = PackedStream(DocumentStream(tmp_path), train_tokenizer(["one"], 300), 100)
    data = MixtureDataModule({"wiki": stream}, Points(0, 3), batch_size=2)
    with pytest.raises(DataError, match="'wiki' is an iterable that gives no samples"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": "largest"}, "`sampling` must be one of"),
        ({"stream_shards": 0}, "`stream_shards` must be at least 1"),
        ({"max_staleness": -1}, "`max_staleness` must not be negative"),
        ({"num_workers": -1}, "`num_workers` must not be negative"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batches_per_epoch": 0}, "`batches_per_epoch` must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mixture(**arguments)
