"""Run folders as `dga-train` leaves them, without a training, and the pages made of them, taken apart."""

import csv
import json
from html.parser import HTMLParser

from lightning_dga.report.run_folder import METRICS, WEIGHTS, weights_header

VOID = {"meta", "br", "hr", "img", "link"}


def write_run(
    folder, weights, alignments=None, *, every=10, tokens=None, epochs=None, losses=(3.0, 2.0), finished=True
):
    """A run folder.

    Args:
        weights: The weights of each row, by domain.
        alignments: Those of each row, by domain; the first row has none.
    """
    domains, rows = tuple(weights), len(next(iter(weights.values())))
    folder.mkdir(parents=True)
    with (folder / WEIGHTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(weights_header(domains))
        for row in range(rows):
            measured = ["" if alignments is None or row == 0 else alignments[d][row - 1] for d in domains]
            writer.writerow([row * every, row, *(weights[d][row] for d in domains), *measured])
    steps = (rows - 1) * every or every
    metrics = {
        "steps": steps,
        "val/target_loss": losses[-1],
        "val/target_loss/best": min(losses),
        "val/target_loss/history": [[steps * (i + 1) // len(losses), loss] for i, loss in enumerate(losses)],
        "test/target_loss": 2.5,
        "unit": "tokens",
        "tokens": tokens or dict.fromkeys(domains, 1000),
        "epochs": epochs or dict.fromkeys(domains, 0.5),
        "weights": {d: weights[d][-1] for d in domains},
        "wall_seconds": 12.34,
        "align_seconds": 1.26,
    }
    if finished:
        (folder / METRICS).write_text(json.dumps(metrics), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """A page's tables, text and charts. What is not well-formed is an error."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.ids = [], [], []
        self.tables, self.texts, self.charts = [], [], []
        self._open = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.text = " ".join(" ".join(self.texts).split())

    def handle_decl(self, decl):
        assert decl == "DOCTYPE html"
        assert not self.tags, "a second document inside the page"

    def handle_pi(self, data):
        raise AssertionError(f"no place for an XML prolog: {data}")

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "svg":
            self.charts.append([])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open, f"closed but never opened: {tag}"
        opened = self._open.pop()
        assert opened == tag, f"{opened} closed by {tag}"

    def handle_data(self, data):
        if "svg" in self._open:
            if self._open[-1] in ("text", "tspan"):
                self.charts[-1].append(data)
        elif "style" not in self._open:
            self.texts.append(data)
            if self._open and self._open[-1] in ("td", "th"):
                self.tables[-1][-1][-1] += data

    def rows(self, table):
        """The rows of a table by their first cell."""
        return {row[0]: row[1:] for row in self.tables[table]}
