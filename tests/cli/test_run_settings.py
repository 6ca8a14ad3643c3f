"""Changed settings of a resumed run are reported or refused."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lightning_dga.callbacks.checkpoints import CheckpointError
from lightning_dga.cli.run_settings import changed_settings, check_fits

CONFIG = {
    "seed": 0, "data": {"root": "here", "batch_size": 8, "num_workers": 0, "seed": "${seed}"},
    "trainer": {"max_steps": 10}, "model": {"max_steps": "${trainer.max_steps}", "learning_rate": 0.1},
}  # fmt: skip


def changed(tmp_path, **overrides):
    OmegaConf.save(OmegaConf.create(CONFIG), tmp_path / "config.yaml", resolve=True)
    now = OmegaConf.create(CONFIG)
    for key, value in overrides.items():
        OmegaConf.update(now, key.replace("__", "."), value)
    return changed_settings(now, tmp_path)


def test_what_is_other_is_told_by_key(tmp_path):
    assert changed(tmp_path) == []
    assert changed(tmp_path, data__batch_size=16) == ["This run resumes with `data.batch_size` 16 instead of 8."]
    assert changed(tmp_path, model__learning_rate=None) == [
        "This run resumes with `model.learning_rate` None instead of 0.1."
    ]


def test_a_longer_run_needs_no_word_and_what_follows_from_a_setting_no_line_of_its_own(tmp_path):
    assert changed(tmp_path, trainer__max_steps=20) == []
    assert changed(tmp_path, seed=1) == ["This run resumes with `seed` 1 instead of 0."]


def test_other_data_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"`data.root` 'there' instead of 'here'.*another `name`"):
        changed(tmp_path, data__root="there")


@pytest.mark.parametrize("content", [None, "", "{", "a list"])
def test_a_config_that_is_gone_or_damaged_blocks_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    assert changed_settings(OmegaConf.create(CONFIG), tmp_path) == []


def test_another_model_is_refused(tmp_path):
    state = {"state_dict": {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}}
    file = tmp_path / "last.ckpt"
    torch.save({**state, "loops": {}, "optimizer_states": [], "global_step": 1}, file)
    check_fits(file, nn.Linear(2, 3))
    with pytest.raises(CheckpointError, match=r"weight has shape \[3, 2\] there, and \[3, 4\] here"):
        check_fits(file, nn.Linear(4, 3))
