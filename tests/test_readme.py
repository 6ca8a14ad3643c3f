"""The README's code runs, and its commands exist."""

import re
import runpy
from pathlib import Path

import pytest

from tests.helpers.commands import dga_train

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def run_as_script(code, folder):
    """A script's Trainer, and the share of the domain that is of the target's kind in what it drew."""
    file = folder / "quickstart.py"
    file.write_text(code, encoding="utf-8")
    names = runpy.run_path(str(file), run_name="__main__")
    seen = dict(zip(names["datamodule"].domain_names, names["datamodule"].samples_seen.tolist(), strict=True))
    return names["trainer"], seen["rising"] / sum(seen.values())


def test_the_quickstart_mixes_without_a_limit_as_it_does_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    trainer, share = run_as_script(code, tmp_path)
    assert trainer.max_steps == -1 and trainer.max_epochs == 1000, "Lightning's own, where none is given"
    assert 50 < trainer.global_step < 2000, "an early stop ended it"
    known = re.sub(r", EarlyStopping\(.*?\)\]", f"], max_steps={trainer.global_step}", code)
    limited, with_limit = run_as_script(known, tmp_path)
    assert limited.max_steps == limited.global_step == trainer.global_step
    assert share >= 0.9 * with_limit and with_limit > 0.6


@pytest.mark.parametrize("command", re.findall(r"^dga-train .*$", README, flags=re.MULTILINE))
def test_every_dga_train_command_composes(tmp_path, command):
    overrides = [word for word in command.split()[1:] if word not in ("-m",)]
    # a sweep's lists are for the sweeper; one of each is composed here
    overrides = [re.sub(r"=([^,]*),.*", r"=\1", override) for override in overrides]
    done = dga_train(tmp_path, "--cfg", "job", *overrides)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "callbacks:" in done.stdout


def test_the_make_targets_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
