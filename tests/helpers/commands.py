"""`dga-train` as a user runs it, made small."""

import csv
import multiprocessing
import os
import subprocess
import sys

import torch

QUICK = [
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=2",
    "callbacks.dga.every_n_steps=2",
    "model.d_model=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "data.context_length=16",
    "data.batch_size=8",
    "data.target_batch_size=8",
    "data.vocab_size=300",
    "data.tokens_per_domain=2000",
    "prior=null",
    "~callbacks.progress",
    "trainer.enable_progress_bar=false",
]
# a process that has imported what each command would need seconds to import, and of which each command is a fork
_IMPORTED = multiprocessing.get_context("forkserver")
_IMPORTED.set_forkserver_preload(["lightning_dga.cli.train", "lightning_dga.cli.domains"])


def dga_train(folder, *overrides, **environment):
    """The command in a process of its own, which is spared its imports."""
    outputs = [folder / ".stdout", folder / ".stderr"]
    process = _IMPORTED.Process(target=_run, args=(folder, outputs, overrides, {**os.environ, **environment}))
    process.start()
    process.join(800)
    process.kill()  # if it has not ended by then
    said = [file.read_text() for file in outputs]
    for file in outputs:
        file.unlink()
    return subprocess.CompletedProcess(["dga-train", *overrides], process.exitcode, *said)


def _run(folder, outputs, overrides, environment):
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = ["dga-train", *overrides]
    from lightning_dga.cli.train import main

    main()


def dga_train_from_a_shell(folder, *overrides, **environment):
    """The command as a shell starts it."""
    command = [sys.executable, "-m", "lightning_dga.cli.train", *overrides]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=800)


def corpora_run(folder, corpora, *overrides, run=dga_train, **environment):
    """A small run on a folder of text."""
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather"]
    return run(folder, *where, *QUICK, *overrides, **environment)


def rows(run):
    with (run / "weights.csv").open() as file:
        return list(csv.DictReader(file))
