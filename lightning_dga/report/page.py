"""Run folders as one HTML page: which domains helped, how the mixture moved, and the results."""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lightning_dga.report import plots
from lightning_dga.report.run_folder import METRICS, WEIGHTS, WeightsTable, read_validations, read_weights
from lightning_dga.report.table import Row, compare, html_table, largest, metrics_if_whole, others_label, run_names

# up to about here, repeated text is worth as much as new text (Muennighoff et al. 2023, arXiv 2305.16264)
MOST_EPOCHS = 4
# names in a sentence; a crawl may have thousands to name
_MOST_NAMED = 3
_NAMED_FROM = 0.05  # of the most helpful: less is next to nothing

_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere }
h2 { margin-top: 3rem; border-top: 1px solid #bbb; padding-top: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
th, td { padding: 0.15rem 0.9rem 0.15rem 0; text-align: right; vertical-align: top }
td { white-space: nowrap }
thead th { border-bottom: 1px solid #555; vertical-align: bottom }
tr > :first-child { text-align: left; font-weight: normal; max-width: 24rem; overflow-wrap: anywhere }
thead tr > :first-child { font-weight: bold }
.part { padding-left: 1.2rem }
.note { border-left: 4px solid #D55E00; padding-left: 0.8rem }
figure { margin: 1.5rem 0 }
figcaption, .how { color: #555; font-size: 0.9rem }
svg { width: 100%; height: auto }
svg text { font-family: system-ui, sans-serif !important }
""".strip()


@dataclass(frozen=True)
class _Run:
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
    loaded = [
        _Run(name, read_weights(run), *metrics_if_whole(run), read_validations(run))
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    title = f"Run {loaded[0].name}" if len(loaded) == 1 else f"Comparison of {len(loaded)} runs"
    parts = [f"<h1>{escape(title)}</h1>", *_comparison(runs, loaded)]
    for run in loaded:
        parts += _section(run, headed=len(loaded) > 1)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}\n</style>",
            "</head>",
            "<body>",
            *_with_ids_apart(parts),
            "</body>",
            "</html>",
            "",
        ]
    )


def _comparison(runs: list[Path], loaded: list[_Run]) -> list[str]:
    parts = [compare(runs).html()]
    histories = {run.name: run.validations for run in loaded if run.validations}
    if histories:
        unit = next((run.metrics["unit"] for run in loaded if run.metrics is not None), "samples")
        parts.append(
            _figure(plots.validation_over_steps(histories, unit), "Loss on the validation part of the target.")
        )
    return parts


def _section(run: _Run, *, headed: bool) -> list[str]:
    parts = [f"<h2>{escape(run.name)}</h2>"] if headed else []
    if run.metrics is None:
        known = f"The mixture is known up to step {run.last_step:,}." if run.table.steps else "It has no entries yet."
        why = f"This run has not finished: it has no {METRICS}"
        if (damaged := run.no_metrics) != "unfinished":
            why = f"{damaged}, and was left out"
        parts.append(
            f'<p class="note">{why}, so that its test loss, and what was drawn from each domain, are not known. '
            f"{known}</p>"
        )
    if left_out := run.table.left_out:
        rows = "1 row was" if left_out == 1 else f"{left_out:,} rows were"
        parts.append(
            f'<p class="note">{rows} left out of {WEIGHTS}: not whole, as a full disk or a kill leaves them.</p>'
        )
    if not run.table.steps:
        return parts
    helped = _helped(run.table)
    parts += ["<h3>Which data helped</h3>", f"<p>{_in_words(run, helped)}</p>", _domains(run, helped)]
    if helped.measurements:
        parts.append(
            '<p class="how">The alignment of a domain is positive where a step on its data lowers the target loss, and '
            "negative where it raises it. Each measurement is taken relative to its strongest domain before the mean, "
            "so that all of them count the same; the domain that helped most has 100%.</p>"
        )
    parts += _repeated(run)
    drawn = _drawn_domains(run.table)
    parts.append(_figure(plots.weights_over_steps(run.table, run.last_step), f"Weights of {drawn} over the run."))
    if helped.measurements:
        parts.append(
            _figure(
                plots.alignments_over_steps(run.table),
                f"Alignment of {drawn} with the target. Faint: each measurement. Bold: their exponential moving "
                f"average, which keeps {plots.SMOOTHING:.0%} of itself at each.",
            )
        )
    return parts


def _drawn_domains(table: WeightsTable) -> str:
    k, shown = len(table.domains), len(plots.shown_domains(table))
    return f"the {k} domains" if shown == k else f"the {shown} domains of the largest mean weight, of {k:,},"


def _in_words(run: _Run, helped: _Helped) -> str:
    if not helped.measurements:
        return "No alignment was measured in this run, so it does not say which data helped."
    ranked = helped.ranked
    best = ranked[0]
    times = f"{helped.measurements:,} measurement" + "s" * (helped.measurements > 1)
    if helped.relative[best] <= 0:
        words = [f"Over {times}, no domain helped on average."]
    else:
        words = [f"Over {times}, <strong>{escape(best)}</strong> helped the target most"]
        next_best = [d for d in ranked[1 : 1 + _MOST_NAMED] if helped.relative[d] >= _NAMED_FROM]
        followed = [f"{escape(domain)} ({helped.relative[domain]:.0%} as much)" for domain in next_best]
        words[0] += f", followed by {_listed(followed)}." if followed else "."
    against = [escape(domain) for domain in reversed(ranked) if helped.relative[domain] <= -_NAMED_FROM]
    if against:
        words.append(f"On average {_listed(against)} worked against it{', the strongest first' * (len(against) > 1)}.")
    words.append(_moved(run.table))
    return " ".join(words)


def _moved(table: WeightsTable) -> str:
    start, end = np.array(table.weights[0]), np.array(table.weights[-1])
    # differences by rounding in the files do not count as movement
    if np.allclose(start, end, rtol=1e-9, atol=0):
        return "The mixture ended as it began."
    up, down = int(np.argmax(end - start)), int(np.argmin(end - start))
    gained, lost = (f"({_percent(start[i])} to {_percent(end[i])})" for i in (up, down))
    names = [escape(table.domains[i]) for i in (up, down)]
    return f"In the mixture, {names[0]} gained most {gained}, and {names[1]} lost most {lost}."


def _domains(run: _Run, helped: _Helped) -> str:
    """The table of the domains: the most drawn ones, the most helpful first."""
    table, metrics = run.table, run.metrics
    start, end = (dict(zip(table.domains, table.weights[row], strict=True)) for row in (0, -1))
    # before the run has finished, what is sampled most is the next best sign of what was drawn
    tokens = {d: metrics["tokens"].get(d, 0) for d in table.domains} if metrics is not None else None
    shown, others = largest(end if tokens is None else tokens)
    rank = {domain: place for place, domain in enumerate(helped.ranked)}
    shown.sort(key=lambda domain: rank.get(domain, len(rank)))
    epochs = (metrics or {}).get("epochs", {})
    measured = ["alignment, relative", "positive in"] if helped.measurements else []
    drawn = "drawn" if metrics is None else f"{metrics['unit']} drawn"
    heads = ["domain", *measured, "weight at the start", "at the end", drawn, "epochs"]
    rows = []
    for domain in shown:
        cells = [_percent(start[domain]), _percent(end[domain])]
        cells += ["-" if tokens is None else f"{tokens[domain]:,}", _epochs(epochs.get(domain))]
        if measured:
            cells[:0] = [
                _percent(helped.relative[domain], sign=True),
                f"{helped.positive[domain]:,} of {helped.counts[domain]:,}",
            ]
        rows.append(Row(domain, cells))
    if others:
        cells = [_percent(sum(weights[domain] for domain in others)) for weights in (start, end)]
        cells += ["-" if tokens is None else f"{sum(tokens[domain] for domain in others):,}", ""]
        rows.append(Row(others_label(len(others)), [*("" for _ in measured), *cells]))
    return html_table(heads, rows)


def _repeated(run: _Run) -> list[str]:
    epochs = (run.metrics or {}).get("epochs", {})
    repeated = {domain: count for domain, count in epochs.items() if count is not None and count > MOST_EPOCHS}
    if not repeated:
        return []
    most = sorted(repeated, key=lambda domain: -repeated[domain])
    names = _listed([f"{escape(domain)} ({_epochs(repeated[domain])} epochs)" for domain in most])
    return [
        f'<p class="note">Repeated more than {MOST_EPOCHS} times: {names}. Beyond about {MOST_EPOCHS} epochs, repeated '
        "text is worth less and less (Muennighoff et al. 2023, arXiv 2305.16264): more data of that kind may help.</p>"
    ]


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


def _figure(svg: str, caption: str) -> str:
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def _with_ids_apart(parts: list[str]) -> list[str]:
    """Prefixes the ids of each chart: matplotlib gives all charts the same ones, and a page may have each only once."""
    return [_prefixed(part, f"chart{i}-") if "<svg" in part else part for i, part in enumerate(parts)]


def _prefixed(svg: str, prefix: str) -> str:
    # within tags only: a domain may be called anything
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", tag[0]), svg)


def _listed(items: list[str]) -> str:
    if len(items) > _MOST_NAMED:
        items = [*items[:_MOST_NAMED], f"{len(items) - _MOST_NAMED:,} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _percent(share: float, *, sign: bool = False) -> str:
    if np.isnan(share):
        return "-"
    # one domain of thousands is no 0.0%
    form = ".1f" if share == 0 or abs(share) >= 0.001 else ".2g"
    return f"{100 * share:{'+' if sign else ''}{form}}%"


def _epochs(count: float | None) -> str:
    return "-" if count is None else f"{count:.2f}"
