from types import SimpleNamespace

import pytest

from lightning_dga import MixtureDataModule
from lightning_dga.callbacks.run_recorder import RunRecorder
from lightning_dga.report import read_weights
from lightning_dga.report.run_folder import read_validations
from tests.helpers.toys import Plain, Points, mixture, trainer


def test_what_was_written_after_the_checkpoint_is_taken_back(tmp_path):
    (tmp_path / "weights.csv").write_text(
        "step,version,weight/domain0,weight/domain1,alignment/domain0,alignment/domain1\n"
        "0,0,0.5,0.5,,\n2,1,0.6,0.4,1.0,0.5\n4,2,0.7,0.3,1.0,0.5\n"
    )
    fit = SimpleNamespace(
        is_global_zero=True, global_step=3, datamodule=mixture(k=2), callbacks=[], loggers=[], optimizers=[]
    )
    RunRecorder(tmp_path).on_train_start(fit, None)
    assert read_weights(tmp_path).steps == [0, 2]


def test_weights_that_a_user_sets_are_recorded_too(tmp_path):
    class Setting(Plain):
        def on_train_batch_end(self, *_):
            if self.trainer.global_step == 2:
                self.trainer.datamodule.set_weights([1, 2, 1])

    recorder = RunRecorder(tmp_path)
    fit = trainer(recorder, max_steps=4)
    fit.fit(Setting(), datamodule=mixture())
    table = read_weights(tmp_path)
    assert table.versions == [0, 1]
    assert table.weights[1] == [0.25, 0.5, 0.25]
    assert recorder.finish(fit)["unit"] == "samples"


def run(folder, *, steps, ckpt=None, domains=3, save=()):
    class Saving(Plain):
        def on_train_batch_end(self, *_):
            if self.trainer.global_step % 3 == 1:
                self.trainer.datamodule.set_weights([1 + self.trainer.global_step, *[2] * (domains - 1)])
            if self.trainer.global_step in save:
                self.trainer.save_checkpoint(folder / f"{self.trainer.global_step}.ckpt")

        def validation_step(self, batch, batch_idx):
            self.log("val/target_loss", self.loss(batch))

    recorder = RunRecorder(folder)
    settings = {"val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    fit = trainer(recorder, max_steps=steps, **settings)
    fit.fit(Saving(), datamodule=mixture(domains, val=Points(9, 8)), ckpt_path=ckpt)
    return recorder.finish(fit)


def test_every_validation_is_kept_whatever_it_is_resumed_from(tmp_path):
    whole = run(tmp_path / "whole", steps=8)
    steps = [step for step, _ in whole["val/target_loss/history"]]
    assert steps == [2, 4, 6, 8]
    folder = tmp_path / "parts"
    # taken before the validation of its own step, as a checkpoint of every so many steps is
    run(folder, steps=6, save=[2, 4])
    for ckpt in ("4.ckpt", "2.ckpt", "4.ckpt"):
        resumed = run(folder, steps=8, ckpt=folder / ckpt)
        assert [step for step, _ in resumed["val/target_loss/history"]] == steps
    assert read_validations(folder) == [tuple(row) for row in resumed["val/target_loss/history"]]
    assert read_weights(folder).steps == read_weights(tmp_path / "whole").steps


def test_nothing_that_is_left_in_its_files_blocks_a_resumed_run(tmp_path):
    run(tmp_path, steps=4, save=[4])
    whole = (tmp_path / "weights.csv").read_bytes()
    for content in (b"", whole + b"4,", b"\xff\xfe\x00garbled", whole.replace(b"weight/domain0", b"w")):
        for name in ("weights.csv", "validations.csv"):
            (tmp_path / name).write_bytes(content)
        run(tmp_path, steps=5, ckpt=tmp_path / "4.ckpt")
        assert read_weights(tmp_path).left_out == 0
    for name in ("weights.csv", "validations.csv", "metrics.json"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    with pytest.warns(UserWarning, match=r"weights\.csv cannot be written"):
        assert run(tmp_path, steps=5, ckpt=tmp_path / "4.ckpt")["steps"] == 5


def test_a_full_disk_is_named_once_and_leaves_whole_rows(tmp_path, monkeypatch):
    from io import BufferedRandom

    import lightning_dga.atomic

    def full_after(stream, lines):
        stream.write(lines[: len(lines) // 2])
        raise OSError(28, "No space left on device")

    class Full(BufferedRandom):
        def write(self, data):
            return full_after(super(), bytes(data))

    recorder_rows = []
    with monkeypatch.context() as patched:
        original = lightning_dga.atomic.append_whole

        def on_a_full_disk(file, lines):
            with patched.context() as inner:
                inner.setattr("pathlib.Path.open", lambda self, mode: Full(open_raw(self)))
                original(file, lines)

        def open_raw(path):
            return open(path, "r+b", buffering=0)

        patched.setattr("lightning_dga.callbacks.run_recorder.append_whole", on_a_full_disk)
        with pytest.warns(UserWarning, match=r"weights\.csv cannot be written: No space left") as told:
            recorder_rows = run(tmp_path, steps=8)
    assert recorder_rows["steps"] == 8
    assert sum("weights.csv" in str(one.message) for one in told) == 1
    assert (tmp_path / "weights.csv").read_bytes().endswith(b"\n")
    assert read_weights(tmp_path).left_out == 0


def test_a_mixture_of_other_domains_keeps_its_history(tmp_path):
    run(tmp_path, steps=2)
    recorder = RunRecorder(tmp_path)
    data = MixtureDataModule({"domain0": Points(0, 9), "new": Points(1, 9)}, Points(1, 9), batch_size=2)
    nothing = {"callbacks": [], "loggers": [], "optimizers": []}
    fit = SimpleNamespace(is_global_zero=True, global_step=2, datamodule=data, **nothing)
    recorder.on_train_start(fit, None)
    data.set_weights([3, 1])
    recorder.on_train_batch_end(fit, None, None, None, 0)
    table = read_weights(tmp_path)
    assert table.domains == ["domain0", "new", "domain1", "domain2"]
    assert table.weights[0][1] == 0 and table.weights[0][2] > 0
    assert table.weights[-1] == [0.75, 0.25, 0, 0]
