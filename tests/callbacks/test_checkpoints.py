"""Which checkpoint a run resumes from, whatever other files are in the folder."""

import pickle
from pathlib import Path

import pytest
import torch

from lightning_dga import newest_checkpoint
from lightning_dga.callbacks.checkpoints import CheckpointError, checkpoint_step
from tests.helpers.toys import Plain, mixture, trainer


class Executes:
    """Leaves a file behind where it is unpickled without restriction."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Checkpoints of two and of four steps."""
    folder = tmp_path_factory.mktemp("whole")
    fit = trainer(max_steps=4)
    torch.manual_seed(0)

    class Saving(Plain):
        def on_train_batch_end(self, *_):
            if self.trainer.global_step in (2, 4):
                self.trainer.save_checkpoint(folder / f"{self.trainer.global_step}.ckpt")

    fit.fit(Saving(), datamodule=mixture())
    return {int(path.stem): path.read_bytes() for path in folder.iterdir()}


def spoil(kind, path, good):
    middle = len(good) // 2
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(good[:middle])
    elif kind == "a flipped bit":
        content = torch.load(path.with_name("good.ckpt"), weights_only=True)
        torch.save({**content, "marked": torch.full((64,), 7.125)}, path)
        good = path.read_bytes()
        place = good.index(torch.full((64,), 7.125).numpy().tobytes()) + 9  # within the numbers of a tensor
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    elif kind == "text":
        path.write_text("model weights go here")
    elif kind == "another program's":
        torch.save({"weights": torch.zeros(3)}, path)
    elif kind == "weights only":
        content = torch.load(path.with_name("good.ckpt"), weights_only=True)
        torch.save({key: value for key, value in content.items() if "optimizer" not in key}, path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "planted":
        content = torch.load(path.with_name("good.ckpt"), weights_only=True)
        torch.save({**content, "global_step": 99, "extra": Executes(path.with_name("executed"))}, path)
    elif kind == "a plain pickle":
        path.write_bytes(pickle.dumps(Executes(path.with_name("executed"))))


KINDS = [
    "empty", "cut", "a flipped bit", "text", "another program's", "weights only", "a folder", "planted",
    "a plain pickle",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_whole_is_passed_over(tmp_path, whole, kind):
    (tmp_path / "good.ckpt").write_bytes(whole[2])
    spoil(kind, tmp_path / "last.ckpt", whole[4])
    with pytest.warns(UserWarning, match=r"last\.ckpt .*skipped"):
        assert newest_checkpoint(tmp_path) == tmp_path / "good.ckpt"
    (tmp_path / "good.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"last\.ckpt .*remove it to start over"):
        newest_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_what_is_planted_would_be_executed(tmp_path, whole):
    (tmp_path / "good.ckpt").write_bytes(whole[2])
    spoil("planted", tmp_path / "last.ckpt", whole[4])
    torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert (tmp_path / "executed").exists()


def test_most_steps_are_the_newest_whatever_the_times_say(tmp_path, whole):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "a.ckpt").write_bytes(whole[4])
    (tmp_path / "b.ckpt").write_bytes(whole[2])
    assert newest_checkpoint(tmp_path) == tmp_path / "a.ckpt"
    assert checkpoint_step(tmp_path / "a.ckpt") == 4


def shards(folder, extra=None):
    from torch.distributed import checkpoint

    folder.mkdir()
    state = {"layer": torch.arange(6.0), "step": extra if extra is not None else 3}
    checkpoint.save(state, storage_writer=checkpoint.FileSystemWriter(folder), no_dist=True)
    torch.save({"loops": {}, "global_step": 7}, folder / "meta.pt")
    return folder


def test_shards(tmp_path):
    folder = shards(tmp_path / "last.ckpt")
    assert newest_checkpoint(tmp_path) == folder
    (part,) = folder.glob("*.distcp")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("where", ["shard", ".metadata", "meta.pt"])
def test_planted_shards_are_not_executed(tmp_path, where):
    trace = tmp_path / "executed"
    folder = shards(tmp_path / "last.ckpt", Executes(trace) if where == "shard" else None)
    if where == ".metadata":
        (folder / where).write_bytes(pickle.dumps(Executes(trace)))
    elif where == "meta.pt":
        torch.save({"loops": {}, "global_step": 7, "extra": Executes(trace)}, folder / where)
    trace.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="can execute arbitrary code"):
        newest_checkpoint(tmp_path)
    assert not trace.exists()
