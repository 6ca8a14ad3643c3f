"""An error on one rank is raised on all, whatever the others were about to do."""

import pytest
import torch

from lightning_dga.distributed import (
    PeerFailure,
    all_reduce_,
    any_rank,
    broadcast,
    failing_together,
    known_to_all,
    rank,
)
from tests.helpers.processes import together

CPU = torch.device("cpu")
RANKS = 3


class Refused(Exception):
    pass


def raised(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return type(error).__name__, str(error), known_to_all(error)
    return None


def measures(fails_at, error=ValueError):
    """Two collectives of different sizes, with work of each process around them."""

    def work(place):
        if rank() == 1 and fails_at == place:
            raise error(f"at {place}")

    with failing_together(CPU, (Refused,)):
        work(0)
        all_reduce_(torch.ones(1000))
        work(1)
        broadcast(torch.ones(3), CPU)
        work(2)
    return "done"


def every_place():
    found = [raised(measures, place) for place in range(3)]
    # they are still in step
    return found, measures(None), all_reduce_(torch.ones(1)).item()


def test_an_error_of_one_process_is_raised_on_all_wherever_it_comes():
    for process, (found, done, total) in enumerate(together(every_place, RANKS)):
        own = [("ValueError", f"at {place}", True) for place in range(3)]
        others = [("PeerFailure", f"Rank 1 failed: ValueError('at {place}')", True) for place in range(3)]
        assert found == (own if process == 1 else others)
        assert done == "done" and total == RANKS


def refusals():
    return raised(measures, 1, Refused), all_reduce_(torch.ones(1)).item()


def test_a_refusal_of_one_process_is_one_of_all():
    assert together(refusals, RANKS) == [(("Refused", "at 1", True), RANKS)] * RANKS


def one_inside_another():
    def outer(*, caught):
        with failing_together(CPU):
            try:
                measures(1)
            except (ValueError, PeerFailure):
                if not caught:
                    raise
            return any_rank(rank() == 2, CPU)

    return outer(caught=True), raised(lambda: outer(caught=False)), all_reduce_(torch.ones(1)).item()


def test_an_error_that_all_know_is_told_once():
    for process, (flag, error, total) in enumerate(together(one_inside_another, RANKS)):
        assert flag and total == RANKS
        assert error[0] == ("ValueError" if process == 1 else "PeerFailure")


def several_at_once():
    def fail():
        with failing_together(CPU, (Refused,)):
            if rank() > 0:
                raise (Refused, ValueError)[rank() - 1](f"rank {rank()}")
            all_reduce_(torch.ones(2))

    return raised(fail)


def test_of_several_errors_the_worst_is_told():
    first, second, third = together(several_at_once, RANKS)
    assert first == ("PeerFailure", "Rank 2 failed: ValueError('rank 2')", True)
    assert second == ("Refused", "rank 1", True) and third == ("ValueError", "rank 2", True)


def test_one_process_alone_raises_its_own():
    with pytest.raises(ValueError, match="here"), failing_together(CPU):
        raise ValueError("here")
