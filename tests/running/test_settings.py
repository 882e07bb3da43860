import numpy as np
import pytest

from running import Settings

GOOD = {"seed": 0, "batch_size": 2, "epochs": 1}


COUNTS = ["batch_size", "epochs", "max_steps", "max_rejections", "evaluate_every"]
COUNTS += ["train_examples", "profile_steps", "keep_checkpoints"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, True, "3", float("nan")])
def test_counts_are_positive_integers(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a positive integer, got {value!r}\."):
        Settings(**(GOOD | {name: value}))


@pytest.mark.parametrize("name", COUNTS)
def test_only_optional_counts_may_be_none(name):
    values = GOOD | {name: None}
    if name in ("epochs", "max_rejections", "keep_checkpoints"):
        with pytest.raises(ValueError, match=rf"`{name}` must be a positive integer, got None\."):
            Settings(**values)
    else:
        assert getattr(Settings(**values), name) is None


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, False, None])
def test_seed_is_an_integer_in_range(value):
    with pytest.raises(ValueError, match=r"`seed` must be an integer from 0 to 4294967295, got"):
        Settings(**(GOOD | {"seed": value}))


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1"])
def test_checkpoint_seconds_is_a_positive_number(value):
    with pytest.raises(ValueError, match="`checkpoint_seconds` must be a positive, finite number"):
        Settings(**GOOD, checkpoint_seconds=value)


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan"), True, "0.1", None])
def test_validation_is_a_fraction(value):
    with pytest.raises(ValueError, match=r"`validation` must be a fraction in \[0, 1\)"):
        Settings(**GOOD, validation=value)


@pytest.mark.parametrize("name", ["quiet", "stop_at_nan", "evaluate_train", "evaluate_test"])
@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be true or false, got"):
        Settings(**GOOD, **{name: value})


def test_every_seed_in_range_seeds_the_data_and_the_keys():
    import jax

    for seed in (0, 2**32 - 1):
        Settings(**(GOOD | {"seed": seed}))
        np.random.default_rng([seed, 0])
        jax.random.key(seed)
