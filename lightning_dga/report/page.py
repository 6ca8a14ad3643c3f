"""Run folders as one HTML page: which domains helped, how the mixture moved, and the results."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lightning_dga.report import plots
from lightning_dga.report.run_folder import WeightsTable, read_validations, read_weights
from lightning_dga.report.table import Row, compare, largest, metrics_if_whole, others_label, run_names

# up to about here, repeated text is worth as much as new text (Muennighoff et al. 2023, arXiv 2305.16264)
MOST_EPOCHS = 4
# names in a sentence; a crawl may have thousands to name
_MOST_NAMED = 3
_NAMED_FROM = 0.05  # of the most helpful: less is next to nothing
_TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class _Helped:
    """How much each domain helped over a run.

    Attributes:
        measurements: How often alignments were measured.
        relative: Mean alignment of each domain, relative to the most helpful one, or to the most harmful one where none
            helped; NaN where none was measured.
        positive: In how many measurements each was positive.
        counts: In how many measurements each was measured.
    """

    measurements: int
    relative: dict[str, float]
    positive: dict[str, int]
    counts: dict[str, int]

    @property
    def ranked(self) -> list[str]:
        """The measured domains, the most helpful first."""
        measured = [domain for domain in self.relative if self.counts[domain]]
        return sorted(measured, key=lambda domain: -self.relative[domain])

    @property
    def best(self) -> str | None:
        """The most helpful domain; ``None`` if none helped on average."""
        best = self.ranked[0]
        return best if self.relative[best] > 0 else None

    @property
    def followed(self) -> str:
        """The domains that helped next to the best, in words."""
        next_best = [d for d in self.ranked[1 : 1 + _MOST_NAMED] if self.relative[d] >= _NAMED_FROM]
        return _listed([f"{domain} ({self.relative[domain]:.0%} as much)" for domain in next_best])

    @property
    def against(self) -> list[str]:
        """The domains that worked against the target, the strongest first."""
        return [domain for domain in reversed(self.ranked) if self.relative[domain] <= -_NAMED_FROM]


@dataclass(frozen=True)
class _Run:
    """What the template shows of a run."""

    name: str
    table: WeightsTable
    metrics: dict[str, Any] | None
    no_metrics: str
    noted: list[tuple[int, float]]

    @property
    def last_step(self) -> int:
        known = self.metrics["steps"] if self.metrics is not None else 0
        return max([known, *self.table.steps[-1:]])

    @property
    def validations(self) -> list[tuple[int, float]]:
        history = (self.metrics or {}).get("val/target_loss/history") or []
        return [(step, loss) for step, loss in history] or self.noted

    @cached_property
    def helped(self) -> _Helped:
        return _helped(self.table)

    @property
    def drawn(self) -> str:
        """The domains that charts show, in words."""
        k, shown = len(self.table.domains), len(plots.shown_domains(self.table))
        return f"the {k} domains" if shown == k else f"the {shown} domains of the largest mean weight, of {k:,},"

    @property
    def weights_chart(self) -> str:
        return plots.weights_over_steps(self.table, self.last_step)

    @property
    def alignments_chart(self) -> str:
        return plots.alignments_over_steps(self.table)

    @property
    def moved(self) -> str:
        """How the mixture moved, in words."""
        table = self.table
        start, end = np.array(table.weights[0]), np.array(table.weights[-1])
        # differences by rounding in the files do not count as movement
        if np.allclose(start, end, rtol=1e-9, atol=0):
            return "The mixture ended as it began."
        up, down = int(np.argmax(end - start)), int(np.argmin(end - start))
        gained, lost = (f"({_percent(start[i])} to {_percent(end[i])})" for i in (up, down))
        return f"In the mixture, {table.domains[up]} gained most {gained}, and {table.domains[down]} lost most {lost}."

    @property
    def domains(self) -> tuple[list[str], list[Row]]:
        """Heads and rows of the table of the domains: the most drawn ones, the most helpful first."""
        table, metrics = self.table, self.metrics
        start, end = (dict(zip(table.domains, table.weights[row], strict=True)) for row in (0, -1))
        # before the run has finished, what is sampled most is the next best sign of what was drawn
        tokens = {d: metrics["tokens"].get(d, 0) for d in table.domains} if metrics is not None else None
        shown, others = largest(end if tokens is None else tokens)
        rank = {domain: place for place, domain in enumerate(self.helped.ranked)}
        shown.sort(key=lambda domain: rank.get(domain, len(rank)))
        epochs = (metrics or {}).get("epochs", {})
        measured = ["alignment, relative", "positive in"] if self.helped.measurements else []
        drawn = "drawn" if metrics is None else f"{metrics['unit']} drawn"
        heads = ["domain", *measured, "weight at the start", "at the end", drawn, "epochs"]
        rows = []
        for domain in shown:
            cells = [_percent(start[domain]), _percent(end[domain])]
            cells += ["-" if tokens is None else f"{tokens[domain]:,}", _epochs(epochs.get(domain))]
            if measured:
                cells[:0] = [
                    _percent(self.helped.relative[domain], sign=True),
                    f"{self.helped.positive[domain]:,} of {self.helped.counts[domain]:,}",
                ]
            rows.append(Row(domain, cells))
        if others:
            cells = [_percent(sum(weights[domain] for domain in others)) for weights in (start, end)]
            cells += ["-" if tokens is None else f"{sum(tokens[domain] for domain in others):,}", ""]
            rows.append(Row(others_label(len(others)), [*("" for _ in measured), *cells]))
        return heads, rows

    @property
    def repeated(self) -> list[str]:
        """The domains that were repeated too often, and how often, the most repeated first."""
        epochs = (self.metrics or {}).get("epochs", {})
        repeated = {domain: times for domain, times in epochs.items() if times is not None and times > MOST_EPOCHS}
        most = sorted(repeated, key=lambda domain: -repeated[domain])
        return [f"{domain} ({_epochs(repeated[domain])} epochs)" for domain in most]


def page(runs: list[Path]) -> str:
    """One HTML page about some runs, which needs nothing beside itself: no network, no script, no other file.

    Args:
        runs: Run folders, finished or not.

    Returns:
        The page.

    Raises:
        ImportError: If matplotlib is not installed.
        RunFolderError: If a folder is not a run folder, or a file in it cannot be read.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    loaded = [
        _Run(name, read_weights(run), *metrics_if_whole(run), read_validations(run))
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    histories = {run.name: run.validations for run in loaded if run.validations}
    unit = next((run.metrics["unit"] for run in loaded if run.metrics is not None), "samples")
    charts = count()
    environment = Environment(
        loader=PackageLoader("lightning_dga.report", ""), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["chart"] = lambda svg: Markup(_prefixed(svg, f"chart{next(charts)}-"))
    environment.filters["listed"] = _listed
    return environment.get_template(_TEMPLATE).render(
        title=f"Run {loaded[0].name}" if len(loaded) == 1 else f"Comparison of {len(loaded)} runs",
        comparison=compare(runs),
        validations=plots.validation_over_steps(histories, unit) if histories else None,
        runs=loaded,
        most_epochs=MOST_EPOCHS,
        smoothing=plots.SMOOTHING,
    )


def _helped(table: WeightsTable) -> _Helped:
    values = np.array(table.alignments, dtype=np.float64).reshape(len(table.steps), len(table.domains))
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0)
    # gradients are largest at the start, and one probe may explode; neither should dominate the mean
    strongest = np.abs(values).max(1, keepdims=True, initial=0.0)
    scaled = np.divide(values, strongest, out=np.zeros_like(values), where=strongest > 0)
    counts = finite.sum(0)
    mean = np.divide(scaled.sum(0), counts, out=np.full(len(counts), np.nan), where=counts > 0)
    known = mean[counts > 0]
    top = max(known.max(initial=0.0), 0.0) or np.abs(known).max(initial=0.0)
    return _Helped(
        measurements=int(finite.any(1).sum()),
        relative=dict(zip(table.domains, (mean / top if top > 0 else mean).tolist(), strict=True)),
        positive=dict(zip(table.domains, (values > 0).sum(0).tolist(), strict=True)),
        counts=dict(zip(table.domains, counts.tolist(), strict=True)),
    )


def _prefixed(svg: str, prefix: str) -> str:
    """Prefixes the ids of a chart: matplotlib gives all charts the same ones, and a page may have each only once."""
    # within tags only: a domain may be called anything
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", tag[0]), svg)


def _listed(items: list[str]) -> str:
    if len(items) > _MOST_NAMED:
        items = [*items[:_MOST_NAMED], f"{len(items) - _MOST_NAMED:,} more"]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _percent(share: float, *, sign: bool = False) -> str:
    if np.isnan(share):
        return "-"
    # one domain of thousands is no 0.0%
    form = ".1f" if share == 0 or abs(share) >= 0.001 else ".2g"
    return f"{100 * share:{'+' if sign else ''}{form}}%"


def _epochs(count: float | None) -> str:
    return "-" if count is None else f"{count:.2f}"
