"""How fast the mixture stream is, what it holds and how exact it is, beside what a user would pick instead.

    python benchmarks/stream.py                    the full tables
    python benchmarks/stream.py --quick            the same columns in under a minute
    python benchmarks/stream.py --parts loader     one of: composition, update, mixture, staleness_cost, loader,
                                                   samples, soak; with --json, what other parts wrote at the same
                                                   commit is kept

Peers that are not installed are said so: pip install -c constraints.txt datasets torchdata litdata

Every figure is the median of some rounds, in which the contestants take turns; the spread is the least and the most.
What runs in one process is measured in processor time, which others on the machine do not change. Loaders run in a
process of their own each, with two workers, and are measured by the clock; beside it stands the processor time of a
batch, in all processes together, and in the main process alone, from which training has to spare it.

Where others use the machine too, only ratios of contestants that take turns within seconds can be relied on: the parts
`staleness_cost` and `samples` give these alone.
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import result
from common.stream_peers import ABILITIES, BATCH, DRAW, PEERS, Peer, TooSlow, our_module, weights_of
from common.stream_samples import KINDS, ours, torchs

from lightning_dga.core.weights import as_weights
from lightning_dga.data import Composition

KS = (10, 1_000, 262_144)
PERIOD = 100
MOST_WAITED = 240.0
SAMPLINGS = ("multinomial", "quota")
MEASURES = {"loader": "samples/s", "cpu": "µs/batch", "main": "µs/batch", "start": "s", "resident": "MiB"}
Row = dict[str, Any]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows = kept(options.json, options.parts) if options.json else []
    for part in options.parts:
        for row in PARTS[part](options.quick):
            rows.append({**row, "part": part})
            print(line(row), flush=True)
            if options.json:
                rows.sort(key=lambda row: list(PARTS).index(row["part"]))
                result.write(options.json, "python benchmarks/stream.py", rows, options.note)


def kept(file: Path, parts: list[str]) -> list[Row]:
    """What other parts wrote at this same commit."""
    if not file.is_file():
        return []
    before = json.loads(file.read_text(encoding="utf-8"))
    return [row for row in before["rows"] if row["part"] not in parts] if before["commit"] == result.commit() else []


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="few rounds, little work")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--note", default="", help="what a reader has to know of the machine, for the result")
    return parser.parse_args()


def composition(quick: bool) -> Iterator[Row]:
    """Domains of samples, with nothing read: samples per second on one core."""
    seconds, rounds = (0.1, 1) if quick else (0.5, 5)
    for k in KS:
        weights = weights_of(k)
        contestants = {}
        for peer in PEERS:
            contestants[peer.name] = attempt(peer, lambda weights=weights, peer=peer: peer.composition(weights))
        rates: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
        for _ in range(rounds):
            for peer in PEERS:
                made = contestants[peer.name]
                if not isinstance(made, str):
                    rates[peer.name].append(peer.size * per_second(made, seconds, time.process_time))
        for peer in PEERS:
            made = contestants[peer.name]
            settings = {"peer": peer.name, "k": k, "batch": peer.size}
            yield (
                missing("composition", settings, made)
                if isinstance(made, str)
                else figure("composition", settings, rates[peer.name], "samples/s")
            )
        # the batch of one process, one at a time
        ours = Composition(torch.from_numpy(weights))
        values = [BATCH * per_second(one_by_one(ours, BATCH), seconds, time.process_time) for _ in range(rounds)]
        yield figure("composition", {"peer": PEERS[0].name, "k": k, "batch": BATCH}, values, "samples/s")


def update(quick: bool) -> Iterator[Row]:
    """From new weights to the first batch under them, and what a checkpoint holds of the stream."""
    rounds = 5 if quick else 50
    for k in KS:
        for sampling in SAMPLINGS:
            names = tuple(map(str, range(k)))
            generator = torch.Generator().manual_seed(0)
            ours = Composition(as_weights(None, names), sampling=sampling)
            setting, drawing, states = [], [], []
            for number in range(rounds):
                weights = torch.rand(k, generator=generator, dtype=torch.float64)
                started = time.process_time()
                ours.set_weights(as_weights(weights, names))
                middle = time.process_time()
                ours.deliver(ours.draw(DRAW))
                setting.append(1e3 * (middle - started))
                drawing.append(1e3 * (time.process_time() - middle))
                if number in (0, rounds - 1):
                    states.append(size_of(ours.state_dict()))
            settings = {"sampling": sampling, "k": k}
            yield figure("update", {**settings, "what": "set the weights"}, setting, "ms")
            yield figure("update", {**settings, "what": f"draw the first {DRAW} samples"}, drawing, "ms")
            yield figure("state", {**settings, "updates": 1}, states[:1], "MiB")
            yield figure("state", {**settings, "updates": rounds}, states[-1:], "MiB")


def mixture(quick: bool) -> Iterator[Row]:
    """How far the samples that were drawn are from the weights."""
    for k in (10, 1_000):
        weights = weights_of(k)
        samples = (20 if quick else 400) * k
        for sampling in SAMPLINGS:
            ours = Composition(torch.from_numpy(weights), sampling=sampling)
            counts, furthest = np.zeros(k), 0.0
            for number, domain in enumerate(domains_of(ours, samples), start=1):
                counts[domain] += 1
                if k == 10 or number % 97 == 0:
                    furthest = max(furthest, np.abs(counts - number * weights).max())
            statistic = float(((counts - samples * weights) ** 2 / (samples * weights)).sum())
            # Wilson and Hilferty's cube root makes chi-square normal
            free = k - 1
            deviation = ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / (2 / (9 * free)) ** 0.5
            settings = {"sampling": sampling, "k": k, "samples": samples}
            yield figure("distance", settings, [furthest], "samples")
            yield figure("chi_square", settings, [deviation], "standard deviations from its mean")


def staleness_cost(quick: bool) -> Iterator[Row]:
    """Processor time of recalling queued work at every update, with nothing but the loader running: the worst case.

    Of all processes, and so throughput where the loader is what training waits for. One loader does both in turns,
    because the processes of two loaders differ by more than is measured.
    """
    rounds = 2 if quick else 15
    for k in KS[:2] if quick else KS:
        for intervals in ([PERIOD], [PERIOD - 10, PERIOD + 10]):
            module = our_module(k, max_staleness=0)
            run = periods_of(module, intervals)
            # more batches than are queued or composed ahead, so that nothing is recalled
            lags = {"recalling": 0, "keeping": 16 * BATCH}
            shares = []
            for number in range(rounds):
                times = {}
                for name in sorted(lags, reverse=bool(number % 2)):
                    module._composition.lag = lags[name]
                    for _ in intervals:
                        next(run)
                    started = processor_seconds()
                    for _ in range(2):
                        next(run)
                    times[name] = processor_seconds() - started
                shares.append(1 - times["keeping"] / times["recalling"])
            run.close()
            period = " and ".join(map(str, intervals))
            yield figure("staleness_cost", {"k": k, "period": period}, shares, "share of throughput")


def loader(quick: bool) -> Iterator[Row]:
    """Batches from samples to the training loop: samples per second, seconds to the first batch, memory."""
    seconds, rounds = (0.3, 1) if quick else (2.0, 3)
    for k in KS[:1] if quick else KS:
        found: dict[str, list[dict[str, float]]] = {}
        reasons: dict[str, str] = {}
        for _ in range(rounds):
            for peer in PEERS:
                if peer.name not in reasons:
                    cell = in_a_process(peer, k, seconds)
                    if isinstance(cell, str):
                        reasons[peer.name] = cell
                    else:
                        found.setdefault(peer.name, []).append(cell)
        for peer in PEERS:
            settings = {"peer": peer.name, "k": k, "workers": 2, "batch": BATCH}
            for measure, unit in MEASURES.items():
                if peer.name in reasons:
                    yield missing(measure, settings, reasons[peer.name])
                else:
                    yield figure(measure, settings, [cell[measure] for cell in found[peer.name]], unit)
    for peer in PEERS:
        for ability in ABILITIES:
            yield {"measure": "ability", "peer": peer.name, "ability": ability, "value": peer.abilities[ability]}


def samples(quick: bool) -> Iterator[Row]:
    """Our loader beside torch's, for samples of several kinds, where the loader is all that is waited for.

    Both run in one process and take turns; which of them was started first changes from round to round.
    """
    rounds, turns, batches = (2, 2, 20) if quick else (6, 12, 25)
    makes = {"ours": ours, "torch": torchs}
    for kind in KINDS:
        ratios: dict[str, list[float]] = {"clock": [], "cpu": []}
        for number in range(rounds):
            running = {name: makes[name](kind) for name in sorted(makes, reverse=bool(number % 2))}
            for _ in range(turns):
                spent = {name: spent_on(running[name], batches) for name in running}
                for measure, of_torch, of_ours in zip(ratios, spent["torch"], spent["ours"], strict=True):
                    ratios[measure].append(of_torch / of_ours)
            for iterator in running.values():
                iterator.close()
            del running
            gc.collect()
        for measure, values in ratios.items():
            yield figure(f"samples_{measure}", {"samples": kind, "workers": 2, "batch": BATCH}, values, "times")


def spent_on(iterator: Iterator[Any], batches: int) -> tuple[float, float]:
    """Seconds by the clock, and of processor time, after what was queued before."""
    for _ in range(10):
        next(iterator)
    started, cpu = time.perf_counter(), processor_seconds()
    for _ in range(batches):
        next(iterator)
    return time.perf_counter() - started, processor_seconds() - cpu


def soak(quick: bool) -> Iterator[Row]:
    """What grows in a long run: memory and open files after a first part of it, and at its end."""
    batches = 5_000 if quick else 1_000_000
    k = 1_000
    for sampling in SAMPLINGS:
        ours = Composition(as_weights(None, list(map(str, range(k)))), sampling=sampling)

        def compose(number: int, ours: Composition = ours) -> None:
            if number % PERIOD == 0:
                ours.set_weights(torch.from_numpy(np.random.default_rng(number).dirichlet(np.ones(k))))
            if number % 5000 == 0:
                ours.state_dict()
            ours.deliver(ours.draw(BATCH))

        yield from grown(f"composition, {sampling}", compose, batches, k, workers=0)
    batches, k, workers = (200 if quick else 10_000), 10, 4
    module = our_module(k, num_workers=workers)
    iterator = iter(module.train_dataloader())

    def load(number: int) -> None:
        next(iterator)
        if number % PERIOD == 0:
            module.set_weights(np.random.default_rng(number).dirichlet(np.ones(k)))

    yield from grown("loader", load, batches, k, workers)
    module.teardown("fit")


def grown(what: str, step: Callable[[int], None], batches: int, k: int, workers: int) -> Iterator[Row]:
    """Runs steps; memory and files of this process and its workers after a tenth of them, and after all."""
    seen = []
    for number in range(1, batches + 1):
        step(number)
        if number in (batches // 10, batches):
            gc.collect()
            seen.append((memory(), files()))
    settings = {"what": what, "k": k, "batches": batches, "workers": workers}
    (memory_first, files_first), (memory_last, files_last) = seen
    yield {**figure("memory_growth", settings, [memory_last - memory_first], "MiB"), "first": memory_first}
    yield {**figure("file_growth", settings, [files_last - files_first], "open files"), "first": files_first}


def loader_cell(peer: Peer, k: int, seconds: float) -> dict[str, float]:
    """One loader, alone in this process."""
    before, started = memory(), time.perf_counter()
    iterator = peer.loader(weights_of(k))
    next(iterator)
    start = time.perf_counter() - started
    for _ in range(20):
        next(iterator)
    main, cpu = time.process_time(), processor_seconds()
    batches, started = 0, time.perf_counter()
    while batches < 50 or time.perf_counter() - started < seconds:
        next(iterator)
        batches += 1
    rate = BATCH * batches / (time.perf_counter() - started)
    main, cpu = time.process_time() - main, processor_seconds() - cpu
    costs = {"main": 1e6 * main / batches, "cpu": 1e6 * cpu / batches}
    return {"loader": rate, **costs, "start": start, "resident": memory() - before}


def in_a_process(peer: Peer, k: int, seconds: float) -> dict[str, float] | str:
    """What one loader measured in a process of its own, or why it did not."""
    if not peer.installed:
        return "not installed"
    forking = multiprocessing.get_context("fork")  # with all libraries imported already
    receiving, sending = forking.Pipe(duplex=False)
    process = forking.Process(target=_send, args=(sending, peer, k, seconds))
    process.start()
    found = receiving.recv() if receiving.poll(MOST_WAITED) else f"no figures within {MOST_WAITED / 60:.0f} minutes"
    for child in processes_of(process.pid)[1:] if process.is_alive() else []:
        os.kill(int(child.name), signal.SIGKILL)
    process.kill()
    process.join()
    return found


def _send(sending: Any, peer: Peer, k: int, seconds: float) -> None:
    try:
        sending.send(loader_cell(peer, k, seconds))
    except TooSlow as error:
        sending.send(str(error))
    except Exception as error:
        sending.send(f"{type(error).__name__}: {error}"[:200])


def attempt(peer: Peer, make: Callable[[], Iterator[Any]]) -> Iterator[Any] | str:
    """An iterator that has given one item, or why there is none."""
    if not peer.installed:
        return "not installed"
    try:
        made = make()
        next(made)
    except TooSlow as error:
        return str(error)
    return made


def per_second(iterator: Iterator[Any], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Items per second."""
    number, started = 0, clock()
    while (taken := clock() - started) < seconds:
        for _ in range(10):
            next(iterator)
        number += 10
    return number / taken


def one_by_one(ours: Composition, size: int) -> Iterator[Any]:
    while True:
        draw = ours.draw(size)
        ours.deliver(draw)
        yield draw


def domains_of(ours: Composition, samples: int) -> Iterator[int]:
    for draw, _ in zip(one_by_one(ours, 100), range(samples // 100), strict=False):
        yield from draw.domains.tolist()


def periods_of(module: Any, intervals: list[int]) -> Iterator[None]:
    """Trains for an interval each time, and sets new weights at its end."""
    iterator, k = iter(module.train_dataloader()), len(module.domain_names)
    weights = [weights_of(k), weights_of(k)[::-1].copy()]
    try:
        for number in range(10**9):
            for _ in range(intervals[number % len(intervals)]):
                next(iterator)
            module.set_weights(weights[number % 2])
            yield
    finally:
        module.teardown("fit")


def processes() -> list[Path]:
    """This process and those that it started, as the system shows them."""
    return processes_of(os.getpid())


def processes_of(pid: int) -> list[Path]:
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            children += (task / "children").read_text().split()
    return [Path(f"/proc/{one}") for one in (pid, *children)]


def memory() -> float:
    """Memory of this process and its workers in MiB, what they share counted once."""
    total = 0
    for process in processes():
        rollup = process / "smaps_rollup"
        if not rollup.exists():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        total += next(int(row.split()[1]) for row in rollup.read_text().splitlines() if row.startswith("Pss:"))
    return total / 1024


def processor_seconds() -> float:
    """Processor time of this process and its workers, all threads."""
    tasks = [task for process in processes() for task in (process / "task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def files() -> int:
    """Open files of this process and its workers."""
    return sum(len(list((process / "fd").iterdir())) for process in processes())


def size_of(state: Any) -> float:
    """The tensors of a state, in MiB."""
    if isinstance(state, torch.Tensor):
        return state.nbytes / 2**20
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return sum(map(size_of, inner))


def figure(measure: str, settings: Row, values: list[float], unit: str) -> Row:
    spread = [min(values), max(values)] if len(values) > 1 else None
    return {"measure": measure, **settings, "value": statistics.median(values), "unit": unit, "spread": spread}


def missing(measure: str, settings: Row, reason: str) -> Row:
    return {"measure": measure, **settings, "value": None, "unit": None, "spread": None, "reason": reason}


def line(row: Row) -> str:
    settings = ", ".join(
        f"{name} {value}" for name, value in row.items() if name not in ("measure", "value", "unit", "spread", "reason")
    )
    value = row["value"]
    shown = row.get("reason") or (f"{value:,.4g} {row['unit']}" if isinstance(value, float) else str(value))
    return f"{row['measure']:>15}  {settings}: {shown}"


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "composition": composition,
    "update": update,
    "mixture": mixture,
    "staleness_cost": staleness_cost,
    "loader": loader,
    "samples": samples,
    "soak": soak,
}

if __name__ == "__main__":
    main()
