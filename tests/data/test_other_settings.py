"""A run that resumes with other settings applies them, or reports that it does not."""

import warnings

import pytest
import torch

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from tests.helpers.toys import Plain, Points, Stream, trainer


def of(names="abc", size=30, **arguments):
    domains = {name: Points("abcdef".index(name), size) for name in names}
    return MixtureDataModule(domains, Points(0, 8), **{"batch_size": 4, "batches_per_epoch": 99, **arguments})


def state_after(data, batches):
    drawn = iter(data.train_dataloader())
    rows = [next(drawn)[2].tolist() for _ in range(batches)]
    return data.state_dict(), rows


def following(data, batches):
    return [sample for batch in state_after(data, batches)[1] for sample in batch]


def test_the_same_settings_say_nothing():
    state, _ = state_after(of(), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of(weights=[1, 1, 1]).load_state_dict(state)
        # of a run that set other weights on the way
        moved = of()
        state_after(moved, 5)
        moved.set_weights([1, 2, 3])
        again = of()
        again.load_state_dict(moved.state_dict())
    assert again.weights.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_weights_that_the_user_now_gives_govern_the_next_batch():
    state, _ = state_after(of(), 5)
    data = of(weights={"a": 0, "b": 0, "c": 1})
    with pytest.warns(UserWarning, match="`weights` are others than the checkpoint's .* hold from the next batch"):
        data.load_state_dict(state)
    assert {domain for domain, _ in following(data, 3)} == {2}
    again = of(weights={"a": 0, "b": 0, "c": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(data.state_dict())


def test_weights_set_by_hand_before_training_count_as_given():
    state, _ = state_after(of(weights=[1, 0, 0]), 5)
    data = of(weights=[1, 0, 0])
    data.set_weights([0, 1, 0])
    with pytest.warns(UserWarning, match="hold from the next batch on"):
        data.load_state_dict(state)
    assert data.weights.tolist() == [0, 1, 0]


def run(folder, data, rule, steps, resume=False):
    torch.manual_seed(0)
    callbacks = [DynamicGradientAlignment(rule=rule, every_n_steps=2, estimator="backward")] if rule else []
    fit = trainer(*callbacks, max_steps=steps)
    fit.fit(Plain(), datamodule=data, ckpt_path=folder / "run.ckpt" if resume else None)
    fit.save_checkpoint(folder / "run.ckpt")


@pytest.mark.parametrize("rule", [None, "static", "dga"])
def test_under_a_trainer_and_a_callback(tmp_path, rule):
    run(tmp_path, of("ab", weights=[0.9, 0.1]), rule, 4)
    data = of("ab", weights=[0.1, 0.9])
    used = "the checkpoint's are used, .*call `datamodule.set_weights`" if rule == "dga" else "hold from the next batch"
    with pytest.warns(UserWarning, match=used):
        run(tmp_path, data, rule, 5, resume=True)
    assert (data.weights[0] > 0.5) == (rule == "dga")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1}, "`seed` is 1, 0 in the checkpoint"),
        (
            {"batch_size": 6},
            "batch over all ranks has 6 samples, 4 in the checkpoint: the stream continues at sample 20",
        ),
        ({"size": 40}, r"other numbers of samples than in the checkpoint \('a' 30 → 40"),
        ({"names": "abcd"}, "domain 'd' is new and begin"),
        ({"names": "ab"}, "domain 'c' is gone"),
        ({"names": "bac"}, "domains are in another order"),
    ],
)
def test_what_else_is_other_is_told(arguments, message):
    state, _ = state_after(of(), 5)
    data = of(**arguments)
    with pytest.warns(UserWarning, match=message):
        data.load_state_dict(state)
    assert data.samples_seen.sum() == (
        20 if arguments.get("names") != "ab" else 20 - int(state["composition"]["counts"][2])
    )
    following(data, 3)


def test_another_target_is_told():
    state, _ = state_after(of(), 2)
    data = of()
    data.target = Points(0, 9)
    with pytest.warns(UserWarning, match="the target has {'target': 9} samples, {'target': 8} in the checkpoint"):
        data.load_state_dict(state)


def test_another_seed_orders_the_rest_of_the_stream():
    state, _ = state_after(of(), 5)
    old, new, fresh = of(), of(seed=1), of(seed=1)
    old.load_state_dict(state)
    with pytest.warns(UserWarning, match="seed"):
        new.load_state_dict(state)
    assert following(new, 5) != following(old, 5)
    assert new.state_dict()["composition"]["seed"] == 1
    assert fresh.samples_seen.sum() == 0


def test_domains_that_stay_go_on_without_repeating_a_sample():
    """Each in its own order, also where it has another place among the domains now."""
    data = of("abc", size=24)
    state, before = state_after(data, 9)
    other = of("xcdb".replace("x", "e"), size=24)
    with pytest.warns(UserWarning, match="domains 'e', 'd' are new.*domain 'a' is gone"):
        other.load_state_dict(state)
    seen = {tuple(sample) for batch in before for sample in batch}
    for name in "bc":
        number = "abcdef".index(name)
        had = {index for domain, index in seen if domain == number}
        left = 24 - len(had)
        other.set_weights({one: float(one == name) for one in "ecdb"})
        rest = [index for domain, index in following(other, -(-left // 4)) if domain == number][:left]
        assert had.isdisjoint(rest) and len(set(rest)) == left
    # and the numbers stay the domains' own in the next checkpoint
    again = of("ecdb", size=24)
    again.load_state_dict(other.state_dict())
    again.set_weights([1, 1, 1, 1])
    other.set_weights([1, 1, 1, 1])
    assert following(again, 4) == following(other, 4)


def test_new_domains_get_an_equal_share_and_the_rest_keeps_its_proportions():
    data = of("abc")
    state_after(data, 3)
    data.set_weights([0.6, 0.2, 0.2])
    other = of("abd")
    with pytest.warns(UserWarning, match="domain 'd' is new"):
        other.load_state_dict(data.state_dict())
    assert other.weights.tolist() == pytest.approx([0.5, 1 / 6, 1 / 3])
    given = of("abd", weights=[1, 0, 1])
    with pytest.warns(UserWarning, match="domain 'd' is new"):
        given.load_state_dict(data.state_dict())
    assert given.weights.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("names", ["abd", "bac", "abcd"])
def test_with_a_callback_other_domains_are_refused_with_the_remedy(tmp_path, names):
    run(tmp_path, of(), "dga", 3)
    with pytest.raises(ValueError, match=r"other domains than this data module .*start a new run from the model's"):
        run(tmp_path, of(names), "dga", 4, resume=True)


def test_streams_among_them_go_on_by_name():
    def mixed(names):
        kinds = {"s": Stream(0, 40), "t": Stream(1, 40), "m": Points(2, 40)}
        return MixtureDataModule({n: kinds[n] for n in names}, Points(0, 4), batch_size=4)

    data = mixed("sm")
    state, rows = state_after(data, 6)
    other = mixed("tms")
    with pytest.warns(UserWarning, match="domain 't' is new"):
        other.load_state_dict(state)
    other.set_weights({"t": 0, "m": 0, "s": 1})
    had = sum(domain == 0 for batch in rows for domain, _ in batch)
    assert following(other, 2) == [[0, index] for index in range(had, had + 8)]


def test_a_state_without_settings_is_taken():
    """The format of older checkpoints."""
    state, _ = state_after(of(), 5)
    del state["settings"]
    data = of(weights=[1, 2, 3])
    data.load_state_dict(state)
    assert data.samples_seen.sum() == 20


class Renamed(MixtureDataModule):
    pass


def test_the_state_is_found_under_another_class_name(tmp_path):
    whole, first = of(), of()
    run(tmp_path, whole, None, 6)
    run(tmp_path, first, None, 3)
    data = Renamed({n: Points("abc".index(n), 30) for n in "abc"}, Points(0, 8), batch_size=4, batches_per_epoch=99)
    with pytest.warns(UserWarning, match="Renamed takes the state of the data module 'MixtureDataModule'"):
        run(tmp_path, data, None, 6, resume=True)
    assert data.samples_seen.tolist() == whole.samples_seen.tolist()


def test_a_checkpoint_without_a_mixture_is_told(tmp_path):
    fit = trainer(max_steps=2)
    fit.fit(Plain(), torch.utils.data.DataLoader(Points(0, 20), batch_size=4))
    fit.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.warns(UserWarning, match="holds no state of a mixture, so MixtureDataModule begins with the first"):
        run(tmp_path, of(), None, 4, resume=True)


def test_evaluating_a_checkpoint_leaves_the_stream_where_it_is(tmp_path):
    class Tested(Plain):
        def test_step(self, batch, batch_idx):
            self.log("loss", self.loss(batch))

    data = of(test=Points(0, 8))
    fit = trainer(max_steps=2, enable_checkpointing=False)
    fit.fit(Tested(), datamodule=data)
    fit.save_checkpoint(tmp_path / "run.ckpt")
    fit = trainer(max_steps=4)
    fit.fit(Tested(), datamodule=data)
    data.set_weights([1, 2, 3])
    seen = data.samples_seen.tolist()
    fit.test(Tested(), datamodule=data, ckpt_path=tmp_path / "run.ckpt", verbose=False)
    assert data.samples_seen.tolist() == seen
    assert data.weights[2] == 0.5
