"""What the charts draw, apart from their labels."""

import re

import numpy as np
import pytest

from lightning_dga.report import plots
from lightning_dga.report.run_folder import WeightsTable


def table(weights, alignments=None, steps=None):
    rows, k = len(weights), len(weights[0])
    return WeightsTable(
        [f"d{i}" for i in range(k)],
        steps or [10 * row for row in range(rows)],
        list(range(rows)),
        weights,
        alignments or [[float("nan")] * k] * rows,
    )


def test_moving_average_by_hand():
    values = np.array([[1.0, np.nan], [3.0, 2.0], [np.nan, 4.0]])
    second = (0.8 * 0.2 * 1 + 0.2 * 3) / (0.8 * 0.2 + 0.2)
    expected = [[1.0, np.nan], [second, 2.0], [second, (0.8 * 0.2 * 2 + 0.2 * 4) / (0.8 * 0.2 + 0.2)]]
    np.testing.assert_allclose(plots.moving_average(values), expected)


def test_the_domains_with_a_line_are_the_largest_on_average():
    weights = [[float(i == 0)] + [0.0] * 24 for i in range(2)]
    weights[0][7], weights[1][7], weights[1][3] = 0.3, 0.3, 0.5
    shown = plots.shown_domains(table(weights))
    assert shown[:3] == [0, 7, 3] or shown[:3] == [7, 3, 0]
    assert len(shown) == 12


def points(path):
    pairs = [tuple(map(float, pair)) for pair in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path)]
    return [pair for i, pair in enumerate(pairs) if i == 0 or pair != pairs[i - 1]]


def lines(svg, colour=""):
    """The lines of a chart within the axes."""
    found = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; ([^"]*)"', svg)
    return [points(d) for d, style in found if colour in style]


def test_a_zero_line_and_two_lines_a_domain():
    nan = float("nan")
    svg = plots.alignments_over_steps(table([[0.5, 0.5]] * 3, [[nan, nan], [1.0, -1.0], [2.0, -2.0]]))
    sloped = [line for line in lines(svg) if len(line) == 2 and line[0][1] != line[1][1]]
    assert len(sloped) == 4
    ((_, zero), (_, level)) = lines(svg, "#333333")[0]
    # zero lies midway between values and their negatives
    assert zero == level == pytest.approx((sloped[0][0][1] + sloped[2][0][1]) / 2, abs=0.02)


def test_weights_hold_until_the_next_row_and_to_the_end():
    k = 21
    row = [1 / k] * k
    other = [0.5] + [0.5 / (k - 1)] * (k - 1)
    svg = plots.weights_over_steps(table([row, other], steps=[0, 10]), 40)
    (drawn, *_) = (line for line in lines(svg) if len(line) == 4)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = drawn
    assert (y0, y2) == (y1, y3)
    assert x1 == x2
    assert (x1 - x0) / (x3 - x0) == pytest.approx(10 / 40, abs=1e-3)


def test_areas_lie_on_each_other_and_fill_the_mixture():
    svg = plots.weights_over_steps(table([[0.25, 0.75], [0.5, 0.5]]), 20)
    lower, upper = (
        points(d) for d in re.findall(r'<path [^>]*?d="([^"]*)"[^>]*fill: #(?:0072B2|E69F00)', svg, re.I)[:2]
    )
    bottom, top = max(y for _, y in lower), min(y for _, y in upper)
    # heights of the lower area: 0.25, then 0.5, of the whole
    heights = sorted({round((bottom - y) / (bottom - top), 2) for _, y in lower})
    assert heights == [0.0, 0.25, 0.5]
    assert {y for _, y in lower} - {bottom} == {y for _, y in upper} - {top}
    # halfway the weight jumps; a slope would promise weights that were never in force
    middle = (min(x for x, _ in lower) + max(x for x, _ in lower)) / 2
    assert len({y for x, y in lower if x == pytest.approx(middle, abs=0.02)} - {bottom}) == 2
