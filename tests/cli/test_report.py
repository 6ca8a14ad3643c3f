"""`dga-report`: what it prints and writes, and its one-line errors."""

import os
import sys

import pytest

from lightning_dga.cli.report import main
from lightning_dga.report import comparison
from tests.helpers.run_folders import Page, write_run

TWO = {"wiki": [0.5, 0.4], "code": [0.5, 0.6]}
ALIGNED = {"wiki": [0.1], "code": [0.2]}


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("dga-report: ")
    assert error.count("\n") == 1
    return error


def test_one_run_has_its_page_in_its_folder(tmp_path, capsys):
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    main([str(run)])
    written = run / "report.html"
    assert capsys.readouterr().out == f"{comparison([run])}\n\nPage: {written}\n"
    assert "Run run" in Page(written.read_text(encoding="utf-8")).text


def test_several_runs_have_one_page_above_them(tmp_path, capsys):
    runs = [write_run(tmp_path / "runs" / name / "seed0", TWO, ALIGNED) for name in ("a", "b")]
    main([str(run.parent) for run in runs])
    assert capsys.readouterr().out.endswith(f"\nPage: {tmp_path / 'runs' / 'report.html'}\n")
    assert list(tmp_path.rglob("report.html")) == [tmp_path / "runs" / "report.html"]


def test_a_run_given_twice_is_one(tmp_path, capsys, monkeypatch):
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    monkeypatch.chdir(run)
    main([".", str(run)])
    assert capsys.readouterr().out.splitlines()[0].split() == ["run"]
    assert (run / "report.html").is_file()


def test_no_page(tmp_path, capsys):
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    main([str(run), "--no-page"])
    assert capsys.readouterr().out == f"{comparison([run])}\n"
    assert not (run / "report.html").exists()


def test_an_unfinished_run_has_a_page(tmp_path, capsys):
    run = write_run(tmp_path / "run", TWO, ALIGNED, finished=False)
    main([str(run)])
    assert "run (unfinished)" in capsys.readouterr().out
    assert (run / "report.html").is_file()


def test_without_matplotlib_there_is_a_table_and_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    main([str(run)])  # exit status 0
    said = capsys.readouterr()
    assert said.out == f"{comparison([run])}\n"
    assert said.err == "dga-report: no page: Plots need matplotlib: pip install 'lightning-dga[report]'\n"
    assert not (run / "report.html").exists()


def test_a_folder_without_runs(tmp_path, capsys):
    assert f"{tmp_path} is not a run folder" in refused(capsys, tmp_path)
    assert "missing is not a run folder" in refused(capsys, tmp_path / "missing")


def test_what_is_not_whole_is_left_out_and_told(tmp_path, capsys):
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    with (run / "weights.csv").open("a") as file:
        file.write("20,2,0.")
    main([str(run)])
    assert f"skipped 1 damaged line(s) of {run / 'weights.csv'}" in capsys.readouterr().err


def test_a_history_that_cannot_be_read(tmp_path, capsys):
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    (run / "weights.csv").write_text("")
    assert "weights.csv cannot be read" in refused(capsys, run)


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    run = write_run(tmp_path / "run", TWO, ALIGNED)
    (run / "report.html").mkdir()  # root may write everywhere, but not over a folder
    assert f"report.html cannot be written ({os.strerror(21)})" in refused(capsys, run)
