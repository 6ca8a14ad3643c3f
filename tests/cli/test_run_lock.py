"""One run folder, one writer."""

import subprocess
import sys

import pytest

from lightning_dga.cli.run_lock import sole_writer
from lightning_dga.report import RunFolderError

HOLD = """
import sys
from pathlib import Path
from lightning_dga.cli.run_lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_and_a_dead_one_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match="Another process is writing"), sole_writer(tmp_path / "run", 0.3):
        pass
    first.kill()
    first.wait()
    with sole_writer(tmp_path / "run", 30):
        pass


def test_it_is_given_back(tmp_path):
    for _ in range(2):
        with sole_writer(tmp_path, 0.3):
            pass
