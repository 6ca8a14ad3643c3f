"""An interrupted and resumed run equals an uninterrupted one, with any workers and ranks, and with changing weights."""

import os
import signal
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.toys import OneOf, Points, Stream, weights_at

GLOBAL_BATCH, STEPS = 8, 14


def ranks_of(world_size, workers, make=Points, **arguments):
    """One data module for each rank, as each process of a run would have it."""
    for rank in range(world_size):
        domains = {f"domain{i}": make(i, 7 + i) if i < 2 else Points(i, 7 + i) for i in range(4)}
        size = GLOBAL_BATCH // world_size
        module = OneOf(domains, Points(0, 3), batch_size=size, num_workers=workers, batches_per_epoch=9999, **arguments)
        module.share = (rank, world_size)
        yield module


def run(modules, first, last, state=None):
    """The samples of each global batch, and the state when training holds the last one."""
    modules, sequence = list(modules), []
    try:
        for module in modules:
            if state is not None:
                module.load_state_dict(state)
        loaders = [iter(module.train_dataloader()) for module in modules]
        for step in range(first, last):
            sequence.append([sample for loader in loaders for sample in next(loader)[2].tolist()])
            for module in modules:
                # as the callback does, at the end of some steps
                if step % 2:
                    module.set_weights(weights_at(step))
        states = [module.state_dict() for module in modules]
    finally:
        for module in modules:
            module.teardown("fit")
    # Lightning saves the first process's, for all of them
    return sequence, states[0]


@pytest.mark.parametrize("make", [Points, Stream])
@settings(max_examples=9, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    workers=st.tuples(*[st.sampled_from([0, 2, 4])] * 2),
    world_sizes=st.tuples(*[st.sampled_from([1, 2, 4])] * 2),
    stop=st.integers(0, STEPS - 1),
    staleness=st.sampled_from([0, 3]),
    sampling=st.sampled_from(["multinomial", "quota"]),
)
def test_a_run_resumes_exactly_with_other_workers_and_processes(make, workers, world_sizes, stop, staleness, sampling):
    settings = {"max_staleness": staleness, "sampling": sampling}
    whole, _ = run(ranks_of(1, 0, make, **settings), 0, STEPS)
    before, state = run(ranks_of(world_sizes[0], workers[0], make, **settings), 0, stop)
    after, _ = run(ranks_of(world_sizes[1], workers[1], make, **settings), stop, STEPS, state)
    assert before + after == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_killed_continues_from_its_last_checkpoint(tmp_path, workers):
    def train():
        (module,) = ranks_of(1, workers)
        loader = iter(module.train_dataloader())
        for step in range(5000):
            samples = next(loader)[2].tolist()
            module.set_weights(weights_at(step))
            torch.save((step + 1, samples, module.state_dict()), tmp_path / "new")
            (tmp_path / "new").rename(tmp_path / "checkpoint")

    child = os.fork()
    if child == 0:
        try:
            train()
        finally:
            os._exit(1)
    while not (tmp_path / "checkpoint").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    done, last, state = torch.load(tmp_path / "checkpoint", weights_only=False)
    whole = []
    for start, stop, given_state in [(0, done + 3, None), (done, done + 3, state)]:
        (module,) = ranks_of(1, 0)
        if given_state is not None:
            module.load_state_dict(given_state)
        loader, samples = iter(module.train_dataloader()), []
        for step in range(start, stop):
            samples.append(next(loader)[2].tolist())
            module.set_weights(weights_at(step))
        whole.append(samples)
    assert 0 < done < 5000
    assert whole[0][done - 1] == last
    assert whole[0][done:] == whole[1]
