"""The table of logged metrics, which a resumed run continues."""

import csv

import pytest

from lightning_dga.callbacks.run_logger import RunLogger


def logger(folder):
    return RunLogger(folder, name="logs", version="")


def rows(folder):
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def write(log, *steps, name="train/loss"):
    for step in steps:
        log.log_metrics({name: float(step)}, step)
    log.save()


def test_a_resumed_run_appends(tmp_path):
    write(logger(tmp_path), 0, 1)
    second = logger(tmp_path)
    write(second, 2)
    write(second, 2, name="val/loss")
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "2"]
    assert rows(tmp_path)[3]["val/loss"] == "2.0" and rows(tmp_path)[0]["train/loss"] == "0.0"


def test_what_was_logged_after_the_checkpoint_is_dropped(tmp_path):
    first = logger(tmp_path)
    write(first, 1, 2, 3)
    write(first, 2, 4, name="test/loss")
    second = logger(tmp_path)
    second.cut_back(2)
    # the row of step 2 is of the third step; what was tested after two steps is still so
    assert [(row["step"], "test/loss" in row) for row in rows(tmp_path)] == [("1", False), ("2", True)]
    second.forget_test(2)
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_half_a_row_is_dropped(tmp_path):
    write(logger(tmp_path), 0, 1)
    with (tmp_path / "logs" / "metrics.csv").open("a") as file:
        file.write('2,"3.')
    write(logger(tmp_path), 2)
    again = logger(tmp_path)
    write(again, 3, name="new")  # another column: the file is written anew
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]


def test_a_full_disk_ends_nothing_and_loses_nothing(tmp_path, monkeypatch):
    log = logger(tmp_path)
    write(log, 0)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("lightning_dga.callbacks.run_logger.append_whole", full)
        with pytest.warns(UserWarning, match=r"metrics\.csv cannot be written: No space left"):
            write(log, 1)
    write(log, 2)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]


def test_a_folder_that_cannot_be_made_ends_nothing(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written"):
        write(logger(tmp_path), 0)
