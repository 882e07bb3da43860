"""The names that a resumed run may call: its folder may come from somebody else."""

from pathlib import Path

import pytest
import yaml

from launch.errors import ConfigError
from launch.stored import check_names

CONF = Path(__file__).parents[2] / "conf"
FILE = Path("run/config.yaml")
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name != "launcher")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_all_names_of_this_project_are_accepted(path):
    check_names(yaml.safe_load(path.read_text(encoding="utf-8")), FILE, [])


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "numpy.load", "file": "evil.npy", "allow_pickle": True},
        {"_target_": "os.system", "command": "true"},
        {"_target_": "subprocess.run"},
        {"_target_": "builtins.eval"},
        {"_target_": "training.hosts.os.system"},
        {"_target_": "hydra.utils.call"},
        {"_target_": "hydra.utils.get_method", "path": "os.system"},
        {"_target_": "jax.numpy.load"},
        {"recorders": {"one": [{"_target_": "pickle.loads"}]}},
    ],
)
def test_a_name_of_another_package_is_refused(node):
    with pytest.raises(
        ConfigError, match=r"`run/config.yaml` names `.*`, which is not called: it belongs neither"
    ):
        check_names({"dataset": node}, FILE, [])


def test_a_module_beside_added_configurations_is_accepted(tmp_path, monkeypatch):
    (tmp_path / "my_own_part.py").write_text("class Part: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = {"model": {"_target_": "my_own_part.Part"}}
    check_names(stored, FILE, [tmp_path.resolve()])
    with pytest.raises(ConfigError, match="--config-dir"):
        check_names(stored, FILE, [])


def test_a_run_whose_folder_names_another_function_is_not_resumed(train):
    small = "model.width=4", "model.depth=1", "hydra.run.dir=run"
    assert train(*small, "max_steps=1").code == 0
    file = Path("run/config.yaml")
    stored = file.read_text(encoding="utf-8")
    file.write_text(stored.replace("data.digits", "os.getcwd"), encoding="utf-8")
    done = train("resume=run", "max_steps=2")
    assert done.code == 2
    assert "names `os.getcwd`" in done.err


def test_a_changed_configuration_is_refused_before_anything_is_built(train, monkeypatch):
    small = "model.width=4", "model.depth=1", "hydra.run.dir=run"
    assert train(*small, "max_steps=1").code == 0
    file = Path("run/config.yaml")
    stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    stored["model"]["width"] = 5
    file.write_text(yaml.safe_dump(stored), encoding="utf-8")
    monkeypatch.setattr("launch.launcher.build", lambda *job, **kind: pytest.fail("built"))
    done = train("resume=run", "max_steps=2")
    assert done.code == 2
    assert "config.yaml` has changed since the checkpoints were written" in done.err
