import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from training import FolderError, check_folder, make_folder
from training.atomic import write_atomically
from training.folder import write_config, write_model, write_summary
from training.leaves import read_leaves


def test_a_missing_and_an_empty_folder_are_used(tmp_path):
    check_folder(tmp_path / "missing", resume=False)
    assert not (tmp_path / "missing").exists()
    check_folder(tmp_path, resume=False)


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(FolderError, match=rf"already holds a run .*resume={tmp_path}"):
        check_folder(tmp_path, resume=False)
    check_folder(tmp_path, resume=True)


def test_resuming_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FolderError, match="no run to resume"):
        check_folder(tmp_path / "missing", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_is_refused(tmp_path, resume):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="is a file"):
        check_folder(tmp_path / "file", resume=resume)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"Cannot make the run folder .*Not a directory"):
        make_folder(tmp_path / "file" / "run")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")

    def fail(file):
        file.write(b"half of the new")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_config_is_stored_in_its_order(tmp_path):
    config = {"seed": 1, "model": {"width": 8, "name": "Übung"}, "choices": [1.5, None, True]}
    write_config(tmp_path, config)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored == config
    assert list(stored) == list(config)


def test_summary_is_strict_json(tmp_path):
    write_summary(tmp_path, {"test_loss": float("nan"), "test": {"accuracy": float("inf")}})
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == {"test_loss": None, "test": {"accuracy": None}}


def test_model_is_read_by_equinox(tmp_path, model, leaves_equal):
    write_model(tmp_path, model)
    blank = jax.tree.map(lambda leaf: leaf * 0 if eqx.is_array(leaf) else leaf, model)
    assert leaves_equal(eqx.tree_deserialise_leaves(tmp_path / "model.eqx", blank), model)


def test_typed_keys_survive(tmp_path):
    tree = {"key": jax.random.key(7), "keys": jax.random.split(jax.random.key(8), 3), "w": 1.5}
    write_model(tmp_path, tree)
    like = {"key": jax.random.key(0), "keys": jax.random.split(jax.random.key(0), 3), "w": 0.0}
    with open(tmp_path / "model.eqx", "rb") as file:
        read = read_leaves(file, like)
    assert read["w"] == 1.5
    for name in ("key", "keys"):
        assert jnp.issubdtype(read[name].dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(
            jax.random.key_data(read[name]), jax.random.key_data(tree[name])
        )
