"""In any order, draws ahead, recalls, copies and checkpoints do not change the sequence of samples."""

import copy

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lightning_dga.core.weights import as_weights
from lightning_dga.data.sampling.composition import Composition

K, SIZE = 4, 3
shares = st.lists(st.sampled_from([0.0, 0.05, 0.3, 1.0]), min_size=K, max_size=K).filter(any)


def weights_of(values):
    return as_weights(values, [str(i) for i in range(K)])


class Calls(RuleBasedStateMachine):
    """Two compositions: one that draws ahead, is saved, copied and asked; one that draws what is handed over."""

    sampling = "quota"

    @initialize(values=shares, lag=st.sampled_from([0, 0, SIZE, 2 * SIZE + 1]), seed=st.integers(0, 3))
    def begin(self, values, lag, seed):
        self.tried, self.plain = (Composition(weights_of(values), seed, lag, self.sampling) for _ in range(2))
        self.pending = []

    @rule(number=st.integers(1, 3))
    def draw_ahead(self, number):
        self.pending += self.tried.draw_several(SIZE, number)

    @rule()
    def deliver(self):
        self.pending = [draw for draw in self.pending if self.tried.is_pending(draw)]
        if not self.pending:
            self.pending.append(self.tried.draw(SIZE))
        draw = self.pending.pop(0)
        self.tried.deliver(draw)
        expected = self.plain.draw(SIZE)
        self.plain.deliver(expected)
        assert np.array_equal(draw.domains, expected.domains)
        assert np.array_equal(draw.positions, expected.positions)
        assert draw.version == expected.version

    @rule(values=shares)
    def set_weights(self, values):
        self.tried.set_weights(weights_of(values))
        self.plain.set_weights(weights_of(values))

    @rule()
    def recall(self):
        self.tried.recall_pending()

    @rule()
    def ask_for_the_state(self):
        self.tried.state_dict()

    @rule()
    def resume(self):
        state, lag = self.tried.state_dict(), self.tried.lag
        self.tried = Composition(weights_of([1] * K), 99, lag, self.sampling)
        self.tried.load_state_dict(state)
        self.pending = []

    @precondition(lambda self: self.tried.handed is not None and self.plain.version == self.tried.handed.version)
    @rule()
    def resume_with_the_batch_in_training(self):
        """Like after a failure within a step; the reference also takes the batch again."""
        state, lag = self.tried.state_dict(completed=False), self.tried.lag
        self.tried, self.plain = (Composition(weights_of([1] * K), 99, lag, self.sampling) for _ in range(2))
        self.tried.load_state_dict(state)
        self.plain.load_state_dict(copy.deepcopy(state))
        self.pending = []

    @rule()
    def go_on_with_a_copy(self):
        self.tried = copy.deepcopy(self.tried)
        self.pending = []

    @invariant()
    def both_count_alike(self):
        if hasattr(self, "tried"):
            assert self.tried.counts().tolist() == self.plain.counts().tolist()
            assert self.tried.position == self.plain.position


class IndependentCalls(Calls):
    sampling = "multinomial"


_SETTINGS = settings(max_examples=40, stateful_step_count=20, deadline=None)
Calls.TestCase.settings = IndependentCalls.TestCase.settings = _SETTINGS
TestQuota = Calls.TestCase
TestMultinomial = IndependentCalls.TestCase


class Debts(RuleBasedStateMachine):
    """The remainder of a domain is carried over from interval to interval, in any order of calls."""

    @initialize(values=shares, lag=st.sampled_from([0, SIZE, 2 * SIZE + 1]))
    def begin(self, values, lag):
        self.composition = Composition(weights_of(values), lag=lag, sampling="quota")
        self.intervals = [(0, weights_of(values).numpy())]
        self.domains = []

    @rule()
    def train(self):
        draw = self.composition.draw(SIZE) if not self.composition._pending else self.composition._pending[0]
        self.composition.deliver(draw)
        self.domains += draw.domains.tolist()

    @rule(number=st.integers(1, 4))
    def draw_ahead(self, number):
        self.composition.draw_several(SIZE, number)

    @rule(values=shares)
    def set_weights(self, values):
        position = len(self.domains)
        start = position + (self.composition.lag if position else 0)
        self.intervals = [*(kept for kept in self.intervals if kept[0] < start), (start, weights_of(values).numpy())]
        self.composition.set_weights(weights_of(values))

    @rule()
    def recall(self):
        self.composition.recall_pending()

    @rule(lag=st.sampled_from([0, SIZE, 2 * SIZE + 1]))
    def another_lag(self, lag):
        """As when a run resumes with another batch size or staleness."""
        self.composition.lag = lag

    @rule()
    def resume(self):
        state, lag = self.composition.state_dict(), self.composition.lag
        self.composition = Composition(weights_of([1] * K), lag=lag, sampling="quota")
        self.composition.load_state_dict(state)

    @precondition(lambda self: len(self.domains) > 0 and self.composition.handed is not None)
    @rule()
    def fail_within_a_step(self):
        """The batch in training is taken again; the weights that were set since its begin hold as they did."""
        state, lag = self.composition.state_dict(completed=False), self.composition.lag
        self.composition = Composition(weights_of([1] * K), lag=lag, sampling="quota")
        self.composition.load_state_dict(state)
        self.domains = self.domains[: self.composition.position]

    @invariant()
    def the_account_is_kept(self):
        if hasattr(self, "composition"):
            state = self.composition.state_dict()
            segment = state["segments"][0]
            due = segment["ideal"].numpy() + (state["position"] - segment["start"]) * segment["weights"].numpy()
            np.testing.assert_allclose(due, self.due(), atol=1e-9)

    def due(self):
        """By definition: shares add up, and an interval carries over at most one sample per domain."""
        due, end = np.zeros(K), len(self.domains)
        reached = [interval for interval in self.intervals if interval[0] <= end]
        for (start, weights), (stop, _) in zip(reached, [*reached[1:], (end, None)], strict=True):
            had = np.bincount(self.domains[:start], minlength=K)
            due = np.clip(due, had - 1, had + 1) + (stop - start) * weights
        # what the interval that begins here takes over
        if reached[-1][0] == end:
            had = np.bincount(self.domains, minlength=K)
            due = np.clip(due, had - 1, had + 1)
        return due


Debts.TestCase.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
TestDebts = Debts.TestCase


def test_an_interval_that_begins_elsewhere_does_not_hand_on_its_account():
    """The order of calls that was found: a step that fails, and a run that resumes with a smaller `max_staleness`."""
    calls = Debts()
    calls.begin([0.3, 0.3, 1.0, 0.05], SIZE)
    calls.train()
    calls.set_weights([1.0, 0.3, 0.05, 0.3])
    calls.train()
    calls.the_account_is_kept()  # as a checkpoint would, it enters the interval that begins here
    calls.fail_within_a_step()
    calls.another_lag(0)
    calls.set_weights([0.05, 1.0, 0.3, 0.3])
    calls.the_account_is_kept()
