"""`dga-train` as a user runs it: the files that it writes, and its errors."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lightning_dga.cli.train import main
from tests.helpers.commands import QUICK, corpora_run, dga_train, dga_train_from_a_shell, rows


def log_rows(run):
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_folder(tmp_path, corpora):
    done = corpora_run(tmp_path, corpora, run=dga_train_from_a_shell)
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "runs" / "weather" / "dga_seed0"
    assert OmegaConf.load(run / "config.yaml").trainer.max_steps == 6
    assert (run / "checkpoints" / "last.ckpt").is_file()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert sum(metrics["tokens"].values()) == 6 * 8 * 16
    assert set(metrics["tokens"]) == {"sea", "sky", "soil"}
    assert 0 < metrics["align_seconds"] < metrics["wall_seconds"]
    assert 0 < metrics["test/target_loss"] < 7
    assert metrics["val/target_loss/best"] <= metrics["val/target_loss"]
    table = rows(run)
    assert [(row["step"], row["version"]) for row in table] == [("0", "0"), ("2", "1"), ("4", "2"), ("6", "3")]
    assert sum(float(table[-1][f"weight/{d}"]) for d in ("sea", "sky", "soil")) == pytest.approx(1)
    assert table[0]["alignment/sky"] == "" and float(table[-1]["alignment/sky"]) != 0
    logged = (run / "logs" / "metrics.csv").read_text()
    assert "dga/weight/sky" in logged and "train/loss" in logged


def test_the_target_is_counted_for_a_prior(tmp_path, corpora):
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather"]
    done = dga_train(tmp_path, *where, *(setting for setting in QUICK if setting != "prior=null"))
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "runs" / "weather" / "dga_seed0"
    assert OmegaConf.load(run / "config.yaml").prior == {"sea": 0, "sky": 1, "soil": 0}
    assert float(rows(run)[0]["weight/sky"]) == 1


def test_it_does_not_overwrite_a_run_unless_told(tmp_path, corpora):
    assert corpora_run(tmp_path, corpora).returncode == 0
    before = (tmp_path / "runs/weather/dga_seed0/metrics.json").read_text()
    again = corpora_run(tmp_path, corpora)
    assert again.returncode == 1
    assert "already holds a run" in again.stderr and "overwrite=true" in again.stderr
    assert (tmp_path / "runs/weather/dga_seed0/metrics.json").read_text() == before
    assert corpora_run(tmp_path, corpora, "overwrite=true").returncode == 0


def test_a_run_is_resumed(tmp_path, corpora):
    # the first part is planned to be shorter, which this rule does not mind; `auto` may choose otherwise each time
    rule = ["callbacks.dga.rule=dga_paper", "callbacks.dga.estimator=backward"]
    whole = corpora_run(tmp_path, corpora, *rule, "name=whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    steps = [*rule, "name=parts", "model.max_steps=6"]
    first = corpora_run(tmp_path, corpora, *steps, "trainer.max_steps=5", "resume=true")
    # the checkpoint is of step 3; what the run wrote after it is taken back
    assert rows(tmp_path / "runs/parts/dga_seed0")[-1]["step"] == "4"
    second = corpora_run(tmp_path, corpora, *steps, "resume=true")
    assert first.returncode == second.returncode == 0, first.stderr[-1000:] + second.stderr[-1000:]
    folders = [tmp_path / "runs" / name / "dga_seed0" for name in ("whole", "parts")]
    assert rows(folders[0]) == rows(folders[1])
    results = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert results[0]["test/target_loss"] == results[1]["test/target_loss"]
    # the validation at the checkpoint's own step came after it was saved
    assert results[0]["val/target_loss/history"] == results[1]["val/target_loss/history"]
    logged = [[(row["step"], row["train/loss"]) for row in log_rows(folder) if row["train/loss"]] for folder in folders]
    assert logged[0] == logged[1] and len(logged[0]) == 3
    assert "the run starts over" in first.stderr and "Resuming from" in second.stderr
    assert f"Page: {folders[1] / 'report.html'}" in second.stdout and "target test loss" in second.stdout


def resumed_in_process(folder, corpora, monkeypatch, capsys, *overrides):
    """The one-line message and the exit status of a resumed run."""
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather", *QUICK, "resume=true", *overrides]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["dga-train", *where])
    with pytest.raises(SystemExit) as end:
        main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dga-train: ")]
    return end.value.code, line


def test_a_run_whose_checkpoints_are_damaged_is_not_overwritten(tmp_path, corpora, monkeypatch, capsys):
    run = tmp_path / "runs/weather/dga_seed0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    (run / "metrics.json").write_text("{}")
    code, line = resumed_in_process(tmp_path, corpora, monkeypatch, capsys)
    assert code == 1 and "last.ckpt is damaged, truncated, or not a checkpoint" in line
    assert (run / "metrics.json").read_text() == "{}"


def test_other_data_and_another_model_are_refused(tmp_path, corpora, monkeypatch, capsys):
    run = tmp_path / "runs/weather/dga_seed0"
    (run / "checkpoints").mkdir(parents=True)
    state = {"loops": {}, "optimizer_states": [], "global_step": 3, "callbacks": {}, "state_dict": {}}
    torch.save({**state, "state_dict": {"norm.weight": torch.ones(24)}}, run / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text(f"data:\n  root: {corpora}\n  tokens_per_domain: 999\n")
    code, line = resumed_in_process(tmp_path, corpora, monkeypatch, capsys)
    assert code == 1 and "`data.tokens_per_domain` 2000 instead of 999" in line
    (run / "config.yaml").unlink()
    code, line = resumed_in_process(tmp_path, corpora, monkeypatch, capsys)
    assert code == 1 and "norm.weight has shape [24] there, and [16] here" in line
    # what only Lightning finds out while it restores
    torch.save(state, run / "checkpoints" / "last.ckpt")
    code, line = resumed_in_process(tmp_path, corpora, monkeypatch, capsys)
    assert code == 1 and "last.ckpt cannot be resumed with these settings" in line


@pytest.mark.cluster
def test_two_processes(tmp_path, corpora):
    overrides = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4"]
    done = corpora_run(tmp_path, corpora, *overrides, run=dga_train_from_a_shell)
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "runs/weather/dga_seed0"
    assert sum(json.loads((run / "metrics.json").read_text())["tokens"].values()) == 6 * 8 * 16
    assert len(rows(run)) == 4


def test_a_histogram_from_the_command_line_drives_importance_sampling(tmp_path, corpora):
    script = "from lightning_dga.cli.domains import main; main()"
    command = [sys.executable, "-c", script, "histogram", str(corpora), "weather", "--output", "histogram.json"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "histogram.json").read_text()) == {"sea": 0, "sky": 1, "soil": 0}
    quick = [setting for setting in QUICK if "every_n_steps" not in setting]
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather", "callbacks=importance"]
    rule = "callbacks.dga.rule.prior=${json:histogram.json}"
    done = dga_train(tmp_path, *where, *quick, rule)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "runs/weather/importance_seed0/metrics.json").read_text())
    assert metrics["tokens"] == {"sea": 0, "sky": 6 * 8 * 16, "soil": 0}
    assert metrics["align_seconds"] == 0


def test_clusters_by_a_histogram_in_a_file(tmp_path, corpora):
    np.save(tmp_path / "histogram.npy", np.array([0, 3, 0, 1, 0]))
    where = [f"data.root={corpora}", "data.target=weather", f"data.labels={corpora}/labels.npy", "name=clusters"]
    quick = [setting for setting in QUICK if "every_n_steps" not in setting]
    rule = ["callbacks=importance", "callbacks.dga.rule.prior=histogram.npy", "data.target_documents=3"]
    done = dga_train(tmp_path, "data=clusters", *where, *quick, *rule)
    assert done.returncode == 0, done.stderr[-2000:]
    tokens = json.loads((tmp_path / "runs/clusters/importance_seed0/metrics.json").read_text())["tokens"]
    assert tokens["1"] > tokens["3"] > 0 == tokens["0"] == tokens["2"] == tokens["4"]
    assert sum(tokens.values()) == 6 * 8 * 16


MISTAKES = {
    "a misspelt key": (["trainer.max_stps=3"], "max_stps"),
    "a number that is none": (["trainer.max_steps=abc"], "`trainer.max_steps` must be an integer, got 'abc'"),
    "a truth value that is none": (["resume=yes_please"], "`resume` must be true or false, got 'yes_please'"),
    "a misspelt key with a plus": (["+trainer.max_stps=3"], "Did you mean `max_steps`"),
    "a misspelt key of a callback": (["callbacks.dga.step_sise=3"], "step_sise"),
    "a setting that does not exist": (["+callbacks.dga.speed=3"], "speed"),
    "a group that does not exist": (["callbacks=dgaa"], "dgaa"),
    "an unknown domain": (["+data.weights={sea: 1, sky: 1, sand: 1, soil: 1}"], "unknown domain 'sand'"),
    "a negative weight": (["+data.weights={sea: 1, sky: -1, soil: 1}"], "'sky' is negative"),
    "a missing folder": (["data.root=/nowhere"], "/nowhere"),
    "an unknown target": (["data.target=whether"], "weather"),
    "a value out of range": (["callbacks.dga.ema=7"], "`ema` must be in (0, 1], got 7"),
    "a missing histogram": (["callbacks=importance", "~callbacks.dga.every_n_steps"], "histogram"),
    "a missing file": (
        ["callbacks=importance", "~callbacks.dga.every_n_steps", "callbacks.dga.rule.prior=${json:nothing.json}"],
        "nothing.json",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(tmp_path, corpora, mistake, monkeypatch, capsys):
    overrides, named = MISTAKES[mistake]
    quick = [s for s in QUICK if not (s.startswith("callbacks.dga.every") and "callbacks=importance" in overrides)]
    overrides = [o.removeprefix("+") if o.startswith("+data.weights") else o for o in overrides if "every_n" not in o]
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dga-train", *where, *quick, *overrides])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("dga-train: ")]
    assert len(lines) == 1
    assert named in lines[0]


def test_a_malformed_line_is_named(tmp_path, corpora):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(corpora, broken)
    with (broken / "sea.jsonl").open("a") as file:
        file.write('{"text": "half a li\n')
    done = corpora_run(tmp_path, broken)
    assert done.returncode == 1
    assert "sea.jsonl" in done.stderr and "61" in done.stderr and "Traceback" not in done.stderr


def test_a_traceback_can_be_asked_for(tmp_path, corpora):
    done = corpora_run(tmp_path, corpora, "data.root=/nowhere", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
