"""Work that is killed at any point resumes, with a bit-identical result."""

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lightning_dga.domains import TfidfEmbedding, cluster_corpus, embed_corpus
from lightning_dga.domains.kmeans import LIBRARIES
from tests.helpers.corpora import sources

FILES = ("embeddings.npy", "labels.npy", "tree.npz")


def make(folder, library):
    embed_corpus(sources()[0], TfidfEmbedding(8), folder, settings={})
    cluster_corpus(folder, 150, levels=3, library=library)


def bits(folder):
    kept = [np.load(folder / name) for name in FILES]
    return [array.tobytes() for file in kept for array in (file.values() if isinstance(file, Mapping) else [file])]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr("lightning_dga.domains.embed._DOCUMENTS_AT_ONCE", 50)
    monkeypatch.setattr("lightning_dga.domains.cluster._NODES_PER_PART", 3)


def killed_at(folder, library, count):
    """Makes domains in another process, which kills itself, as by `kill -9`, in place of finishing its n-th file."""
    replace = Path.replace
    files = itertools.count(1)

    def killed(path, target):
        if next(files) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    def work():
        Path.replace = killed
        make(folder, library)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("library", LIBRARIES)
def test_killed_again_and_again(tmp_path, library):
    make(tmp_path / "whole", library)
    folder = tmp_path / "killed"
    kills = 0
    # most get a file or two further than the last, some none
    while killed_at(folder, library, 1 + kills % 4):
        kills += 1
    assert kills > 10
    assert bits(folder) == bits(tmp_path / "whole")
    assert not list(folder.glob("*.partial"))


def test_finished_work_is_not_done_again(tmp_path):
    make(tmp_path, "scikit-learn")
    times = [(tmp_path / name).stat().st_mtime_ns for name in FILES]
    time.sleep(0.01)
    make(tmp_path, "scikit-learn")
    assert [(tmp_path / name).stat().st_mtime_ns for name in FILES] == times
