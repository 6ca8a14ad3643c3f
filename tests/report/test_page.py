"""The page of one run or several: its contents, in one well-formed file."""

import re
import sys

import pytest

from lightning_dga.report import RunFolderError, page
from tests.helpers.run_folders import Page, write_run

HOSTILE = "<b>&"
THREE = {"wiki": [0.5, 0.4, 0.2], "code": [0.25, 0.35, 0.6], HOSTILE: [0.25, 0.25, 0.2]}
# the first measurement is a thousand times larger, as one of an exploding probe; each is to count the same
ALIGNED = {"wiki": [-500.0, 0.1], "code": [250.0, 0.4], HOSTILE: [1000.0, -0.2]}


@pytest.fixture
def run(tmp_path):
    tokens = {"wiki": 1234567, "code": 400, HOSTILE: 33}
    return write_run(tmp_path / "first", THREE, ALIGNED, tokens=tokens, epochs={"wiki": 4.5, "code": None, HOSTILE: 4})


def test_a_page_is_one_well_formed_file(run):
    html = page([run])
    parsed = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe", "base"}.intersection(parsed.tags)
    assert "@import" not in html
    # references only within the page; the rest would need the network
    references = [v for name, v in parsed.attributes if name in ("src", "href", "xlink:href")]
    references += re.findall(r"url\(([^)]*)\)", html)
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert set(references) <= {f"#{name}" for name in parsed.ids}


def test_no_id_occurs_twice(tmp_path):
    runs = [write_run(tmp_path / name, THREE, ALIGNED) for name in ("a", "b")]
    ids = Page(page(runs)).ids
    assert ids
    assert len(ids) == len(set(ids))


def test_the_domains_are_ranked_by_mean_alignment(run):
    parsed = Page(page([run]))
    # code: (0.25 + 1) / 2; <b>&: (1 - 0.5) / 2; wiki: (-0.5 + 0.25) / 2
    assert parsed.tables[1][1:] == [
        ["code", "+100.0%", "2 of 2", "25.0%", "60.0%", "400", "-"],
        [HOSTILE, "+40.0%", "1 of 2", "25.0%", "20.0%", "33", "4.00"],
        ["wiki", "-20.0%", "1 of 2", "50.0%", "20.0%", "1,234,567", "4.50"],
    ]
    assert "Over 2 measurements, code helped the target most, followed by <b>& (40% as much)." in parsed.text
    assert "On average wiki worked against it" in parsed.text
    assert "code gained most (25.0% to 60.0%), and wiki lost most (50.0% to 20.0%)." in parsed.text


def test_the_comparison_holds_the_figures(run):
    rows = Page(page([run])).rows(0)
    assert rows[""] == ["first"]
    assert rows["target test loss"] == ["2.5000"]
    assert rows["best"] == ["2.0000"]
    assert rows["tokens drawn"] == ["1,235,000"]
    assert rows["wiki"] == ["1,234,567 (100%)"]
    assert rows["aligning, s"] == ["1.3"]


def test_only_domains_repeated_more_than_four_times_are_noted(run):
    assert "Repeated more than 4 times: wiki (4.50 epochs)." in Page(page([run])).text


def test_no_note_without_repetition(tmp_path):
    assert "Repeated" not in page([write_run(tmp_path / "run", THREE, ALIGNED)])


def test_names_are_escaped_everywhere(tmp_path):
    folder = write_run(tmp_path / HOSTILE, THREE, ALIGNED, epochs=dict.fromkeys(THREE, 9))
    html = page([folder])
    assert HOSTILE not in html
    assert "b" not in Page(html).tags
    assert sum(HOSTILE in chart for chart in Page(html).charts) == 2


def test_charts_show_names_that_matplotlib_would_read_otherwise(tmp_path):
    names = ["_hidden", r"$\nothing{$", 'id="x" href="#x" url(#x)', "x" * 99]
    folder = write_run(tmp_path / "run", {n: [0.25, 0.25] for n in names}, {n: [1.0] for n in names})
    _, weights, alignments = Page(page([folder])).charts
    for chart in (weights, alignments):
        assert {*names[:3], "x" * 31 + "…"} <= set(chart)


def test_the_charts_of_a_run(run):
    loss, weights, alignments = Page(page([run])).charts
    assert "target validation loss (nats per token)" in loss
    assert "weight (share of samples)" in weights
    assert "alignment (inner product of gradients)" in alignments
    assert all("optimizer steps" in chart for chart in (loss, weights, alignments))
    assert {"wiki", "code"} <= set(weights)


def test_several_runs_share_a_table_and_a_chart(tmp_path):
    uniform = write_run(tmp_path / "uniform", {d: [1 / 3] for d in THREE}, every=20)
    parsed = Page(page([uniform, write_run(tmp_path / "dga", THREE, ALIGNED)]))
    assert parsed.rows(0)[""] == ["uniform", "dga"]
    assert {"uniform", "dga"} <= set(parsed.charts[0])
    assert len(parsed.charts) == 1 + 1 + 2  # the loss; the weights of uniform; weights and alignments of dga


def test_a_run_without_alignments_says_that_it_cannot_tell(tmp_path):
    parsed = Page(page([write_run(tmp_path / "uniform", {d: [1 / 3] for d in THREE})]))
    assert "No alignment was measured in this run" in parsed.text
    assert parsed.tables[1][0] == ["domain", "weight at the start", "at the end", "tokens drawn", "epochs"]
    assert len(parsed.charts) == 2


def test_alignments_with_static_weights(tmp_path):
    parsed = Page(page([write_run(tmp_path / "static", {d: [1 / 3, 1 / 3] for d in THREE}, ALIGNED)]))
    assert "The mixture ended as it began." in parsed.text
    assert "helped the target most" in parsed.text


def test_no_domain_is_praised_that_did_not_help(tmp_path):
    weights = {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    text = Page(page([write_run(tmp_path / "run", weights, {"a": [-1.0], "b": [-2.0]})])).text
    assert "Over 1 measurement, no domain helped on average." in text
    assert "On average b and a worked against it, the strongest first." in text


def test_the_most_helpful_domain_is_the_measure_of_the_harmful_ones(tmp_path):
    weights = {"a": [0.5, 0.5], "b": [0.5, 0.5], "c": [0.5, 0.5]}
    parsed = Page(page([write_run(tmp_path / "run", weights, {"a": [1.0], "b": [-2.0], "c": [-0.04]})]))
    assert [row[1] for row in parsed.tables[1][1:]] == ["+100.0%", "-4.0%", "-200.0%"]
    assert "helped the target most. On average b worked against it. " in parsed.text


def test_a_domain_that_was_never_measured_comes_last(tmp_path):
    weights = {"a": [0.5, 0.5, 0.5], "b": [0.3, 0.3, 0.3], "c": [0.2, 0.2, 0.2]}
    folder = write_run(tmp_path / "run", weights, {"a": ["", ""], "b": [-1.0, ""], "c": ["nan", 2.0]})
    rows = Page(page([folder])).tables[1][1:]
    assert [row[:3] for row in rows] == [
        ["c", "+100.0%", "1 of 1"],
        ["b", "-100.0%", "0 of 1"],
        ["a", "-", "0 of 0"],
    ]


def test_an_unfinished_run_has_a_page_that_says_so(tmp_path):
    parsed = Page(page([write_run(tmp_path / "run", THREE, ALIGNED, finished=False)]))
    assert "This run has not finished" in parsed.text
    assert "up to step 20" in parsed.text
    assert parsed.rows(0)[""] == ["run (unfinished)"]
    assert parsed.rows(0)["target val loss"] == ["-"]
    assert parsed.rows(1)["code"] == ["+100.0%", "2 of 2", "25.0%", "60.0%", "-", "-"]
    assert len(parsed.charts) == 2


@pytest.mark.parametrize("kept", [1, 2])
def test_a_run_that_has_just_begun(tmp_path, kept):
    folder = write_run(tmp_path / "run", THREE, ALIGNED, finished=False)
    lines = (folder / "weights.csv").read_text().splitlines(keepends=True)
    (folder / "weights.csv").write_text("".join(lines[:kept]))
    assert "This run has not finished" in Page(page([folder])).text


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    folder = write_run(tmp_path / "run", THREE, ALIGNED, finished=False)
    with (folder / "weights.csv").open("a") as file:
        file.write("30,3,0.2,0.6,0.2,0.1")
    assert "up to step 20" in Page(page([folder])).text


def test_rows_that_are_not_whole_are_left_out_and_told(run):
    whole = page([run])
    with (run / "weights.csv").open("ab") as file:
        file.write(
            b"30,3,0.2\n40,4,0.2,0.6,\xff,,,\n50,5,\x00,0.5,0.2,,,\n'60,\"7\n70,7,1,0,0,,,\n80,8,1,0,0,0.1,0.2,0."
        )
    parsed = Page(page([run]))
    assert "5 rows were left out of weights.csv" in parsed.text and "left out" not in Page(whole).text
    assert parsed.rows(1)["wiki"][3] == "100.0%", "the whole row behind those that are not is read"


@pytest.mark.parametrize("first_line", ["", "ten,0,1", "step,version,weight/a,alignment/b", "\0\0\n"])
def test_a_file_of_something_else_is_named(run, first_line):
    (run / "weights.csv").write_text(first_line + "\n1,0,1,\n")
    with pytest.raises(RunFolderError, match=r"first/weights\.csv cannot be read"):
        page([run])


def test_losses_are_drawn_before_a_run_has_finished(tmp_path):
    folder = write_run(tmp_path / "run", THREE, ALIGNED, finished=False)
    (folder / "validations.csv").write_text("step,val/target_loss\n10,3.5\n20,3.25\n30,3.")
    assert "target validation loss" in " ".join(sum(Page(page([folder])).charts, []))


def test_many_domains_are_limited(tmp_path):
    k = 5_000
    names = [f"cluster{i}" for i in range(k)]
    # the later the larger; and the last one helps most
    tokens = {name: i for i, name in enumerate(names)}
    folder = write_run(
        tmp_path / "run",
        {name: [2 * i / k / (k - 1)] * 2 for i, name in enumerate(names)},
        {name: [float(i)] for i, name in enumerate(names)},
        tokens=tokens,
        epochs=dict.fromkeys(names, 5.0),
    )
    html = page([folder])
    parsed = Page(html)
    assert len(html) < 200_000
    assert sum(name.startswith("cluster") for name in parsed.rows(0)) == 30
    others = sum(range(k - 30))
    assert parsed.rows(0)["4,970 other domains"] == [f"{others:,} ( 99%)"]
    assert [row[0] for row in parsed.tables[1][1:]] == [*names[-1:-31:-1], "4,970 other domains"]
    assert parsed.rows(1)["4,970 other domains"][-2:] == [f"{others:,}", ""]
    assert "4,997 more" in parsed.text
    _, weights, alignments = parsed.charts
    assert [name for name in weights if name.startswith("cluster")] == names[-1:-13:-1]
    assert "4,988 others" in weights
    assert [name for name in alignments if name.startswith("cluster")] == names[-1:-13:-1]


def test_twenty_domains_are_areas_and_twenty_one_are_lines(tmp_path):
    texts = []
    for k in (20, 21):
        names = [f"d{i}" for i in range(k)]
        folder = write_run(tmp_path / str(k), {name: [1 / k] for name in names})
        texts.append(Page(page([folder])).charts[1])
    assert {f"d{i}" for i in range(20)} <= set(texts[0])
    assert "9 others" in texts[1]
    assert sum(name in texts[1] for name in names) == 12


def test_a_long_run_does_not_make_a_long_page(tmp_path):
    rows = 5000
    weights = {f"d{i}": [0.05] * rows for i in range(20)}
    alignments = {f"d{i}": [(-1.0) ** j / (i + 1) for j in range(rows)] for i in range(20)}
    assert len(page([write_run(tmp_path / "run", weights, alignments)])) < 2_000_000


def test_the_missing_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-dga\[report\]'"):
        page([run])


def test_charts_leave_no_global_state(run):
    import matplotlib

    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    page([run])
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_the_same_runs_give_the_same_page(run):
    assert page([run]) == page([run])
