"""The text table."""

import json

import pytest

from lightning_dga.report import RunFolderError, comparison, page, read_metrics
from tests.helpers.run_folders import write_run

TWO = {"wiki": [0.5, 0.5], "code": [0.5, 0.5]}


def test_the_table_of_two_runs(tmp_path):
    first = write_run(tmp_path / "a", TWO, tokens={"wiki": 3000, "code": 1000})
    second = write_run(tmp_path / "longer", {"code": [0.5, 0.5], "web": [0.5, 0.5]}, losses=(1.5, 1.75))
    assert comparison([first, second]).splitlines() == [
        "                             a        longer",
        "--------------------------------------------",
        "target test loss        2.5000        2.5000",
        "target val loss         2.0000        1.7500",
        "  best                  2.0000        1.5000",
        "optimizer steps             10            10",
        "tokens drawn             4,000         2,000",
        "  wiki            3,000 ( 75%)      0 (  0%)",
        "  code            1,000 ( 25%)  1,000 ( 50%)",
        "  web                 0 (  0%)  1,000 ( 50%)",
        "time, s                   12.3          12.3",
        "  aligning, s              1.3           1.3",
    ]


def test_an_unfinished_run_has_dashes(tmp_path):
    runs = [write_run(tmp_path / "a", TWO), write_run(tmp_path / "b", TWO, finished=False)]
    lines = comparison(runs).splitlines()
    assert lines[0].split() == ["a", "b", "(unfinished)"]
    assert all(line.endswith(" -") for line in lines[2:])
    assert "drawn" not in comparison(runs[1:])


def test_many_domains_are_limited_to_the_largest(tmp_path):
    names = [f"d{i}" for i in range(33)]
    weights = {name: [1 / 33] for name in names}
    tokens = {name: 10 + i for i, name in enumerate(names)}
    # the second run makes d0 large
    runs = [
        write_run(tmp_path / "a", weights, tokens=tokens),
        write_run(tmp_path / "b", weights, tokens={**tokens, "d0": 5000}),
    ]
    lines = [line.split("  ") for line in comparison(runs).splitlines()]
    shown = [line[1] for line in lines if len(line) > 1 and line[1].startswith("d")]
    assert shown == ["d0", *reversed(names[4:])]
    others = next(line for line in comparison(runs).splitlines() if "other domains" in line)
    assert others.split() == ["3", "other", "domains", "36", "(", "4%)", "36", "(", "1%)"]


def test_thirty_domains_keep_their_order_and_leave_none_out(tmp_path):
    names = [f"d{i}" for i in range(30)]
    tokens = {name: 10 + i for i, name in enumerate(names)}
    text = comparison([write_run(tmp_path / "a", {name: [1 / 30] for name in names}, tokens=tokens)])
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  d")] == names
    assert "other" not in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / name / "seed0", TWO) for name in ("uniform", "dga")]
    assert comparison(runs).splitlines()[0].split() == ["uniform/seed0", "dga/seed0"]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"steps": 3}), "\xff"])
def test_damaged_metrics_are_left_out_and_told(tmp_path, content):
    damaged, whole = write_run(tmp_path / "a", TWO), write_run(tmp_path / "b", TWO)
    (damaged / "metrics.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFolderError, match=r"a/metrics\.json"):
        read_metrics(damaged)
    table = comparison([damaged, whole])
    assert "a (metrics.json is damaged)" in table and "2.5000" in table
    assert "metrics.json is damaged, and was left out" in page([damaged])
