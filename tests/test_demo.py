import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_dga_beats_the_uniform_mixture_in_the_demo(tmp_path, seed):
    command = [sys.executable, "-m", "lightning_dga.cli.train", "-m", "experiment=demo", "callbacks=uniform,dga"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([*command, f"seed={seed}"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    losses = {
        rule: json.loads((tmp_path / f"runs/demo/{rule}_seed{seed}/metrics.json").read_text())["test/target_loss"]
        for rule in ("uniform", "dga")
    }
    assert losses["dga"] < losses["uniform"]
