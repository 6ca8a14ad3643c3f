"""SVG charts of a run over its steps; they need matplotlib, of the extra ``report``."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_dga.report.run_folder import WeightsTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

# up to this many domains, weights are stacked areas; beyond, lines for the largest ones
MOST_AREAS = 20
MOST_LINES = 12
SMOOTHING = 0.8

# Okabe and Ito's colours, which colour-blind readers tell apart; without the yellow, too faint on white
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
# these distinguish domains of the same colour
_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1, 1))]
_HATCHES = ["", "////", "...."]
_OTHERS = "#888888"
_GRID = "#dddddd"

_WIDTH, _HEIGHT = 9.0, 3.6  # inches
# a chart is about 600 pixels wide: more points would only make the page larger
_MOST_POINTS = 300
_LONGEST_NAME = 32


def weights_over_steps(table: WeightsTable, last_step: int) -> str:
    """The mixture: stacked areas for up to 20 domains, else lines for the 12 largest and one for the others.

    Args:
        table: A history with at least one row.
        last_step: Step up to which the last weights are drawn; at least the last step of the table.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure, axes = _chart("optimizer steps", "weight (share of samples)")
    rows = _spread(len(table.steps))
    steps = [table.steps[row] for row in rows]
    weights = np.array([table.weights[row] for row in rows], dtype=np.float64)
    # weights apply until the next row, and the last ones until the end
    steps, weights = [*steps, max(last_step, steps[-1], steps[0] + 1)], np.vstack([weights, weights[-1:]])
    shown = shown_domains(table)
    names = [table.domains[i] for i in shown]
    if len(table.domains) <= MOST_AREAS:
        areas: list[Any] = axes.stackplot(
            steps,
            weights.T,
            step="post",
            colors=[_colour(i) for i in range(len(shown))],
            edgecolor="white",  # neighbours can be told apart without colour
            linewidth=0.6,
        )
        for i, area in enumerate(areas):
            area.set_hatch(_cycled(_HATCHES, i))
        axes.set_ylim(0, 1)
        # from top to bottom, as the areas are stacked
        _legend(figure, areas[::-1], names[::-1])
    else:
        lines = [axes.step(steps, weights[:, i], where="post", **_line(n))[0] for n, i in enumerate(shown)]
        rest = weights.sum(1) - weights[:, shown].sum(1)
        lines += axes.step(steps, rest, where="post", color=_OTHERS, linewidth=2.5)
        # the sum of the others and one domain of thousands differ by orders of magnitude
        axes.set_yscale("log", subs=[2, 5])
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter("{x:g}")
        axes.set_ylabel("weight (share of samples, log scale)")
        _legend(figure, lines, [*names, f"{len(table.domains) - len(shown):,} others"])
    axes.set_xlim(steps[0], steps[-1])
    return _svg(figure, "Domain weights over optimizer steps")


def alignments_over_steps(table: WeightsTable) -> str:
    """The alignments: the measurements as faint lines, and their exponential moving averages as bold ones.

    Shows up to 20 domains, or the 12 with the largest weights if there are more.

    Args:
        table: A history with at least one measurement.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure, axes = _chart("optimizer steps", "alignment (inner product of gradients)")
    shown = shown_domains(table)
    values = np.array([[row[i] for i in shown] for row in table.alignments], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    measured = np.isfinite(values).any(1)
    steps, values = np.array(table.steps)[measured], values[measured]
    smooth = moving_average(values)
    rows = _spread(len(steps))
    marker = "o" if len(rows) == 1 else ""  # a single point does not make a line
    faint = 0.35 if len(shown) <= len(_COLOURS) else 0.15  # fainter, because many lines overlap
    axes.axhline(0, color="#333333", linewidth=1)
    lines = []
    for n in range(len(shown)):
        axes.plot(steps[rows], values[rows, n], color=_colour(n), linewidth=0.8, alpha=faint)
        lines += axes.plot(steps[rows], smooth[rows, n], marker=marker, **_line(n))
    axes.set_xlim(left=table.steps[0])  # where the chart of the weights starts
    _legend(figure, lines, [table.domains[i] for i in shown])
    return _svg(figure, "Alignment of each domain with the target over optimizer steps")


def validation_over_steps(histories: Mapping[str, Sequence[tuple[int, float]]], unit: str) -> str:
    """The validation loss on the target, for one or several runs.

    Args:
        histories: Steps and losses of each run, by its name.
        unit: Unit in which the runs count their data; for tokens, the loss is in nats per token.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure, axes = _chart(
        "optimizer steps", "target validation loss" + (" (nats per token)" if unit == "tokens" else "")
    )
    lines = []
    for n, history in enumerate(histories.values()):
        rows = _spread(len(history))
        steps, losses = [history[row][0] for row in rows], [history[row][1] for row in rows]
        lines += axes.plot(steps, losses, marker="o", markersize=3.5, **_line(n))
    if len(histories) > 1:
        _legend(figure, lines, list(histories))
    return _svg(figure, "Target validation loss over optimizer steps")


def shown_domains(table: WeightsTable) -> list[int]:
    """The domains that get a line: all if there are up to 20, else the 12 with the largest mean weight."""
    k = len(table.domains)
    if k <= MOST_AREAS:
        return list(range(k))
    mean = np.array(table.weights, dtype=np.float64).mean(0)
    return [int(i) for i in np.argsort(-mean, kind="stable")[:MOST_LINES]]


def moving_average(values: Array) -> Array:
    """Exponential moving averages along the first axis, with bias correction; NaN is skipped.

    Args:
        values: ``[rows, k]``.

    Returns:
        Averages, ``[rows, k]``; NaN until the first number.
    """
    total, weight = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    averages = np.full(values.shape, np.nan)
    for row, value in enumerate(values):
        seen = np.isfinite(value)
        total[seen] = SMOOTHING * total[seen] + (1 - SMOOTHING) * value[seen]
        weight[seen] = SMOOTHING * weight[seen] + (1 - SMOOTHING)
        np.divide(total, weight, out=averages[row], where=weight > 0)
    return averages


def _chart(x: str, y: str) -> "tuple[Figure, Axes]":
    # the object API, because pyplot would choose a backend and keep every figure for the whole process
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'lightning-dga[report]'") from error
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure, axes


def _legend(figure: "Figure", handles: Sequence[Any], names: Sequence[str]) -> None:
    # set afterwards: a legend parses "$" as mathematics and, before matplotlib 3.10, omits names like "_x"
    legend = figure.legend(
        handles, ["-"] * len(names), loc="outside right upper", frameon=False, fontsize=8, handlelength=2.8
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…")


def _svg(figure: "Figure", title: str) -> str:
    import matplotlib

    file = io.StringIO()
    # text stays text, for screen readers and search; a fixed salt makes the file reproducible
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    svg = file.getvalue()
    width, height = (math.ceil(inches * 72) for inches in (_WIDTH, _HEIGHT))
    # without the XML prolog, which is not allowed inside a page, and as wide as the page
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    head += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    svg = re.sub(r"<svg\b[^>]*>", head, svg[svg.index("<svg") :], count=1)
    # two decimals are enough on any screen, and halve the size of the page
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)


def _spread(count: int) -> list[int]:
    """Rows to draw: all, or evenly spaced ones with the first and the last."""
    if count <= _MOST_POINTS:
        return list(range(count))
    return [round(i) for i in np.linspace(0, count - 1, _MOST_POINTS)]


def _line(n: int) -> dict[str, Any]:
    return {"color": _colour(n), "linestyle": _cycled(_DASHES, n), "linewidth": 1.8}


def _colour(n: int) -> str:
    return _COLOURS[n % len(_COLOURS)]


def _cycled(styles: list[Any], n: int) -> Any:
    """The style of the n-th line or area; it changes each time that the colours repeat."""
    return styles[n // len(_COLOURS) % len(styles)]
