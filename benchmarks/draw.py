"""Draws the tables of `docs/results/` from `benchmarks/results/*.json`.

python benchmarks/draw.py
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLUMNS = {
    "loss": {
        "target": "target",
        "tokens per domain": lambda row: f"{row['cap']:,}",
        "rule": "rule",
        "test loss, nats/token": lambda row: f"{row['value']:.3f}",
        "std over seeds": lambda row: "-" if row["spread"] is None else f"{row['spread']:.3f}",
        "each seed": lambda row: ", ".join(f"{value:.3f}" for value in row["values"]),
        "share of time aligning": lambda row: f"{row['aligning']:.0%}",
        "passes over the most repeated domain": lambda row: f"{row['epochs_of_top_domain']:.1f}",
    },
    "domains": {
        "stage": "stage",
        "library": "library",
        "documents": lambda row: f"{row['documents']:,}",
        "clusters made": lambda row: f"{row['made']:,}" if "made" in row else "-",
        "with one document": lambda row: f"{row['singletons']:,}" if "singletons" in row else "-",
        "documents in the largest": lambda row: f"{row['largest']:,}" if "largest" in row else "-",
        "wall time, s": lambda row: f"{row['value']:.0f}",
        "processor time, s": lambda row: f"{row['cpu']:.0f}",
        "peak memory, GB": lambda row: f"{row['memory'] / 1e9:.2f}",
    },
    "killed": {
        "stage": "stage",
        "library": "library",
        "kills": "kills",
        "processor time, in that of an undisturbed run": lambda row: f"{row['value']:.2f}",
        "same bits": lambda row: f"{'yes' if row['identical'] else 'no'}: {', '.join(row['compared'])}",
    },
}


def main() -> None:
    folder = HERE.parent / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((HERE / "results").glob("*.json")):
        (folder / f"{file.stem}.md").write_text(document(file.stem, json.loads(file.read_text())), encoding="utf-8")


def document(name: str, result: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    parts = [
        f"# {name}",
        f"Drawn by `python benchmarks/draw.py` from `benchmarks/results/{name}.json`, which this command wrote:",
        f"```\n{result['command']}\n```",
        f"Machine: {machine}. Commit: {result['commit']}.",
        *(table(measure, [row for row in result["rows"] if row["measure"] == measure]) for measure in measures(result)),
    ]
    return "\n\n".join(parts) + "\n"


def measures(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["measure"] for row in result["rows"]))


def table(measure: str, rows: list[dict[str, Any]]) -> str:
    columns = COLUMNS[measure]
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row) if callable(cell) else str(row[cell]) for cell in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
