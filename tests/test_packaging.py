"""The installed package: the wheel, in an environment of its own, outside of the repository."""

import json
import os
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from lightning_dga.cli.train import config_dir
from tests.helpers.commands import QUICK, dga_train

ROOT = Path(__file__).parent.parent
OTHER_APPLICATION = """
import sys

import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(config):
    print(config.callbacks.dga._target_, config.model.width, "torch" in sys.modules)

main()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the commands of a fresh environment that has the wheel, and our dependencies by a path entry."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=800)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    place = sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
    install = [sys.executable, "-m", "pip", "--python", str(folder / "env" / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, timeout=800)
    # a `.pth` file in a folder that is added by one is not read, so an editable install does not shine through
    Path(place, "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "env" / "bin"


def run(folder, *command):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)


@pytest.mark.cluster
def test_the_wheel_trains_outside_the_repository(installed, tmp_path, corpora):
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather"]
    done = run(tmp_path, installed / "dga-train", *where, *QUICK)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "runs/weather/dga_seed0/metrics.json").read_text())["steps"] == 6
    assert (tmp_path / "runs/weather/dga_seed0/report.html").is_file(), "the page's template is in the wheel"
    found = run(tmp_path, installed / "python", "-c", "import lightning_dga; print(lightning_dga.__file__)").stdout
    assert found.startswith(str(installed.parent))
    assert str(installed.parent) in run(tmp_path, installed / "dga-train", "--info", "searchpath").stdout


@pytest.mark.cluster
def test_the_wheel_has_every_config(installed):
    (conf,) = installed.parent.glob("lib/python*/site-packages/lightning_dga/conf")
    names = [{str(file.relative_to(tree)) for file in tree.rglob("*.yaml")} for tree in (conf, ROOT / "conf")]
    assert names[0] == names[1]


@pytest.mark.cluster
def test_the_wheel_shows_its_configs_to_another_application(installed, tmp_path):
    (tmp_path / "app.py").write_text(OTHER_APPLICATION)
    (tmp_path / "app.yaml").write_text("defaults: [_self_, {callbacks: dga}, {model: own}]\ntrainer: {}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text("width: 7\n")
    done = run(tmp_path, installed / "python", "app.py")
    # and its start is not slowed by what our package imports
    assert done.stdout.split() == ["lightning_dga.DynamicGradientAlignment", "7", "False"], done.stderr


def test_a_folder_of_the_users_own_overrides_and_extends_the_configs(tmp_path):
    (tmp_path / "own" / "trainer").mkdir(parents=True)
    (tmp_path / "own" / "trainer" / "gpu.yaml").write_text("defaults: [cpu]\nmax_steps: 7\n")
    (tmp_path / "own" / "experiment").mkdir()
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    chosen = ["trainer=gpu", "experiment=mine", "--cfg", "job"]
    for option in (["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]):
        done = dga_train(tmp_path, *option, *chosen)
        assert done.returncode == 0, done.stderr
        assert "name: mine" in done.stdout and "max_steps: 7" in done.stdout and "accelerator: cpu" in done.stdout
    missing = dga_train(tmp_path, "--config-dir", "nowhere")
    assert missing.returncode == 1 and "nowhere" in missing.stderr and "Traceback" not in missing.stderr


def test_the_configs_are_found_beside_the_package():
    assert (config_dir() / "train.yaml").is_file()
