"""How losses of mixtures are drawn: what each rule is better than uniform, at each budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Row = dict[str, Any]
# Okabe and Ito's colours, which colour-blind readers tell apart
LINES: Mapping[tuple[str, str], tuple[str, str, str]] = {
    ("best fixed mix", "right"): ("best fixed mix of the grid", "#000000", "--"),
    ("importance", "right"): ("importance sampling", "#D55E00", "-"),
    ("importance", "wrong"): ("importance sampling, wrong prior", "#D55E00", ":"),
    ("water_filling", "right"): ("water-filling", "#E69F00", "-"),
    ("water_filling", "wrong"): ("water-filling, wrong prior", "#E69F00", ":"),
    ("dga_paper", "none"): ("dga_paper", "#56B4E9", "-"),
    ("doge", "none"): ("doge", "#CC79A7", "-"),
    ("dga", "right"): ("dga", "#0072B2", "-"),
    ("dga", "none"): ("dga, no prior", "#0072B2", "--"),
    ("dga", "wrong"): ("dga, wrong prior", "#0072B2", ":"),
}
# nats; importance sampling is worse by up to several
WORST = 0.25


def draw(rows: list[Row], file: Path) -> None:
    """A panel for each target; what is worse than the panel shows leaves it at the top.

    Args:
        rows: Of the measure `loss`.
        file: An `.svg` file.
    """
    # the same bytes from the same figures
    matplotlib.rcParams |= {"svg.hashsalt": file.stem, "svg.fonttype": "none"}
    targets = list(dict.fromkeys(row["target"] for row in rows))
    figure = Figure(figsize=(5 * len(targets), 4), layout="constrained")
    panels = figure.subplots(1, len(targets), squeeze=False)[0]
    for panel, target in zip(panels, targets, strict=True):
        found = losses([row for row in rows if row["target"] == target])
        caps = sorted({cap for cap, _, _ in found}, key=lambda cap: cap or float("inf"))
        uniform = {cap: found[cap, "uniform", "none"] for cap in caps}
        lowest = 0.0
        for (rule, prior), (label, colour, dashes) in LINES.items():
            points = [found[cap, rule, prior] - uniform[cap] if (cap, rule, prior) in found else None for cap in caps]
            if any(point is not None for point in points):
                values = [float("nan") if point is None else point for point in points]
                lowest = min(lowest, *(point for point in points if point is not None))
                panel.plot(range(len(caps)), values, dashes, color=colour, label=label, marker="o", markersize=3)
        panel.axhline(0, color="#888888", linewidth=0.8)
        panel.set_ylim(1.05 * lowest, WORST)
        panel.set_xticks(range(len(caps)), [f"{cap:,}" if cap else "all" for cap in caps])
        panel.set(title=target, xlabel="tokens per domain")
    panels[0].set_ylabel("test loss beyond uniform's, nats/token")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(file, metadata={"Date": None})


def losses(rows: list[Row]) -> dict[tuple[int | None, str, str], float]:
    """Of each budget, rule and prior; the best fixed mix counts as a rule."""
    found = {(row["cap"], row["rule"], row["prior"]): row["value"] for row in rows}
    for row in rows:
        if row["rule"].startswith("mix") and row["prior"] == "right":
            key = row["cap"], "best fixed mix", "right"
            found[key] = min(found.get(key, float("inf")), row["value"])
    return found
