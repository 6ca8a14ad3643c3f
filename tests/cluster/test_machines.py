"""torchrun on two machines that share only a network and a file system."""

import json

import pytest

from tests.helpers.commands import corpora_run, dga_train_from_a_shell, rows
from tests.helpers.guides import commands, small

# `in_step` measures what each process trains on, which is other samples where there are more processes
SETTINGS = ["callbacks.dga.estimator=backward"]


@pytest.mark.cluster
@pytest.mark.timeout(4800)
def test_two_machines_do_what_one_process_does(machines, tmp_path, corpora):
    started = []
    for machine, command in zip(machines, commands("torchrun"), strict=True):
        command = command.replace("HOST", machines[0].address)
        words = small(command, corpora, *SETTINGS, "data.batch_size=4", "name=together", devices=1)
        started.append(machine.start(*words, cwd=tmp_path))
    for process in started:
        said = process.communicate(timeout=1500)[1]
        assert process.returncode == 0, said[-3000:]
    assert corpora_run(tmp_path, corpora, *SETTINGS, "name=alone", run=dga_train_from_a_shell).returncode == 0
    folders = [tmp_path / "runs" / name / "dga_seed0" for name in ("alone", "together")]
    alone, together = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert together["tokens"] == alone["tokens"]
    assert together["weights"] == pytest.approx(alone["weights"], rel=1e-4)
    assert [row["step"] for row in rows(folders[1])] == [row["step"] for row in rows(folders[0])]


@pytest.mark.cluster
@pytest.mark.timeout(4800)
def test_the_machines_do_not_share_a_loopback(machines):
    """Otherwise the test above would also pass with a wrong address."""
    first, second = machines
    listen = "import socket; s = socket.create_server(('127.0.0.1', 29777)); s.settimeout(120); s.accept()"
    connect = "import socket; socket.create_connection(('127.0.0.1', 29777), 2)"
    server = first.start("python3", "-c", listen)
    try:
        assert second.start("python3", "-c", connect).wait(120) != 0
    finally:
        server.kill()
