"""Time and memory of making 262,144 clusters out of more than 300,000 short documents, and what a kill costs.

    python benchmarks/domains.py --root DIR --json benchmarks/results/domains.json
    python benchmarks/domains.py --root DIR --quick        the same columns in under a minute

The documents are runs of two to six consecutive sentences of the domains in DIR, so they are real text and overlap. The
commands are those that a user runs, each a process of its own. Every library clusters the same vectors twice: once
undisturbed, and once killed (SIGKILL) again and again, a little later each time, until a process gets to the end. Wall
time depends on what else the machine does, processor time hardly.
"""

import argparse
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import result

from lightning_dga.data.text import folder_domains

SENTENCES = range(2, 7)
MADE = ("embeddings.npy", "labels.npy", "tree.npz")


@dataclass
class Usage:
    """What a command took: seconds of wall time and of processor time, peak bytes of memory, exit status."""

    wall: float
    cpu: float
    memory: float
    status: int


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        rows = benchmark(options, Path(scratch))
    for row in rows:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    if options.json:
        libraries = " ".join(options.libraries)
        command = (
            f"python benchmarks/domains.py --root DIR --documents {options.documents} --clusters {options.clusters} "
            f"--kills {options.kills} --libraries {libraries}"
        )
        result.write(options.json, command, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of <domain>.jsonl")
    parser.add_argument("--documents", type=int, default=320_000)
    parser.add_argument("--clusters", type=int, default=262_144)
    parser.add_argument("--libraries", nargs="+", default=["scikit-learn", "faiss"], metavar="NAME")
    parser.add_argument("--kills", type=int, default=4, help="how often to kill each command")
    parser.add_argument("--scratch", type=Path, help="where to work; the system's temporary folder if not given")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--quick", action="store_true", help="4,000 documents, 3,000 clusters, two kills, faiss")
    options = parser.parse_args()
    if options.quick:
        options.documents, options.clusters, options.kills, options.libraries = 4_000, 3_000, 2, ["faiss"]
    return options


def benchmark(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    corpus, whole, killed = scratch / "corpus", scratch / "whole", scratch / "killed"
    documents = write_corpus(options.root, corpus, options.documents)
    sizes: dict[str, Any] = {"documents": documents, "clusters": options.clusters}
    embed = ["embed", str(corpus)]
    rows = [row("import", run(["--help"]), library="-", **sizes)]
    usage = finished(run([*embed, str(whole)]))
    rows.append(row("embed", usage, library="scikit-learn", **sizes))
    again = run_killed([*embed, str(killed)], options.kills, usage.wall)
    rows.append(killed_row("embed", usage, again, killed, whole, "scikit-learn", sizes))
    for library in options.libraries:
        cluster = ["--clusters", str(options.clusters), "--library", library, "--overwrite"]
        usage = finished(run(["cluster", str(whole), *cluster]))
        made = json.loads((whole / "cluster.json").read_text())
        found = {key: made[key] for key in ("nodes", "singletons", "median", "largest")}
        rows.append(row("cluster", usage, library=library, made=made["clusters"], **found, **sizes))
        for name in ("cluster.json", *MADE[1:]):
            (killed / name).unlink(missing_ok=True)
        again = run_killed(["cluster", str(killed), *cluster[:-1]], options.kills, usage.wall)
        rows.append(killed_row("cluster", usage, again, killed, whole, library, sizes))
    return rows


def row(stage: str, usage: Usage, **settings: Any) -> dict[str, Any]:
    return {
        "measure": "domains",
        "stage": stage,
        "value": usage.wall,
        "unit": "s",
        "cpu": usage.cpu,
        "memory": usage.memory,
        "spread": None,
        **settings,
    }


def killed_row(
    stage: str, whole: Usage, runs: list[Usage], folder: Path, reference: Path, library: str, sizes: dict[str, Any]
) -> dict[str, Any]:
    names = MADE[:1] if stage == "embed" else MADE
    return {
        "measure": "killed",
        "stage": stage,
        "library": library,
        "kills": sum(one.status != 0 for one in runs),
        "value": sum(one.cpu for one in runs) / whole.cpu,
        "unit": "processor time of all processes, in that of one undisturbed",
        "spread": None,
        "identical": all(same(np.load(folder / name), np.load(reference / name)) for name in names),
        "compared": names,
        **sizes,
    }


def run_killed(command: list[str], kills: int, wall: float) -> list[Usage]:
    """Runs a command until it ends by itself; the first ``kills`` processes are killed, each at its own time."""
    runs = [run(command, kill_after=wall * (number + 1) / (kills + 1)) for number in range(kills)]
    return [*runs, finished(run(command))]


def run(arguments: list[str], kill_after: float = math.inf) -> Usage:
    command = [sys.executable, "-m", "lightning_dga.cli.domains", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.monotonic()
    ended = 0
    while not ended:
        if time.monotonic() - begin > kill_after:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)
        # unlike the process's own `wait`, this tells what it used
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Usage(time.monotonic() - begin, cpu, usage.ru_maxrss * 1024, process.returncode)


def same(one: Any, other: Any) -> bool:
    """Whether two arrays, or two archives of arrays, hold the same bits."""
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes()
    return sorted(one.files) == sorted(other.files) and all(same(one[name], other[name]) for name in one.files)


def finished(usage: Usage) -> Usage:
    if usage.status:
        sys.exit(f"A command ended with status {usage.status}.")
    return usage


def write_corpus(root: Path, corpus: Path, most: int) -> int:
    """Runs of sentences, evenly spread over all that there are; how many were written."""
    corpus.mkdir()
    sentences = {
        name: [s for text in documents for s in split(text)] for name, documents in sorted(folder_domains(root).items())
    }
    total = sum(max(0, len(found) - length + 1) for found in sentences.values() for length in SENTENCES)
    kept = min(most, total)
    numbers = itertools.count()
    for name, found in sentences.items():
        with (corpus / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for text in runs_of(found):
                number = next(numbers)
                if (number + 1) * kept // total > number * kept // total:
                    file.write(json.dumps({"text": text}) + "\n")
    return kept


def runs_of(sentences: list[str]) -> Iterator[str]:
    for start, length in itertools.product(range(len(sentences)), SENTENCES):
        if start + length <= len(sentences):
            yield " ".join(sentences[start : start + length])


def split(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+|\n+", text) if len(sentence.split()) >= 4]


if __name__ == "__main__":
    main()
