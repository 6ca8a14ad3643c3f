from types import SimpleNamespace

from lightning_dga.recorder import RunRecorder
from lightning_dga.report import read_weights
from tests.toys import Plain, mixture, trainer


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
