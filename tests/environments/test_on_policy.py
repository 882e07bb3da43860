import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from environments import CartPole, OnPolicy


def balance(observation):
    """A policy that balances well: it pushes to the side to which the pole falls."""
    lean = 100 * (observation[2] + 0.3 * observation[3] + 0.03 * observation[1])
    return jnp.stack([-lean, lean])


def random_policy(observation):
    del observation
    return jnp.zeros(2)


SOURCE = OnPolicy(CartPole(), time_steps=1500, environments=3, discount=0.99)


def batch(policy, step=0, key=0):
    draw = jax.jit(lambda step, key: SOURCE.batch(policy, step=step, key=key))
    return draw(jnp.int32(step), jax.random.key(key))


def test_a_batch_is_one_example_per_time_step():
    (observations, (actions, advantages)), numbers = batch(random_policy, step=6)
    assert observations.shape == (1500, 4)
    assert actions.shape == advantages.shape == (1500,)
    assert set(np.asarray(actions).tolist()) == {0, 1}
    np.testing.assert_allclose(np.mean(advantages), 0, atol=1e-4)
    np.testing.assert_allclose(np.std(advantages), 1, rtol=1e-4)
    assert numbers["environment_steps"] == 7 * 1500
    # Random actions keep the pole up for about twenty steps.
    assert 9 < numbers["mean_return"] < 60


def test_a_batch_depends_on_the_key():
    same, other = batch(random_policy, key=0), batch(random_policy, key=1)
    again = batch(random_policy, key=0)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(same[0][0], other[0][0])


def test_the_baseline_is_fitted_in_full_precision():
    """The default precision of a GPU is below single precision; this policy has no products."""
    draw = jax.jit(lambda key: SOURCE.batch(balance, step=jnp.int32(0), key=key))
    text = draw.lower(jax.random.key(0)).as_text()
    found = re.findall(r"stablehlo\.dot_general.*", text)
    assert len(found) >= 4  # two to fit the baseline, two to predict by it
    assert [line for line in found if "HIGHEST" not in line] == []


def test_a_good_policy_has_a_higher_mean_return():
    assert SOURCE.mean_return(balance) == 500
    assert 15 < SOURCE.mean_return(random_policy) < 30


def test_a_source_has_the_sizes_for_a_model():
    assert (SOURCE.name, SOURCE.input_shape, SOURCE.output_size) == ("cartpole", (4,), 2)
    assert SOURCE.num_train == 1500


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((100, 3, 0.9), r"`OnPolicy\(environments=...\)` .* got 3 .* 100 time steps\. .* `batch"),
        ((100, 0, 0.9), "got 0 environments and 100 time steps"),
        ((100, 10, 1.1), r"`OnPolicy\(discount=...\)` must lie in \[0, 1\], got 1.1"),
    ],
)
def test_bad_arguments_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        OnPolicy(CartPole(), *numbers)
