"""An objective with an `l2`: its loss, gradient and steps against the dense reference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import curvature as cv
from tests.curvature.written import MODELS, Written, flat, penalised
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("as_installed")

L2 = 0.3


KINDS = ["one layer", "frozen", "several_terms", "autoencoder"]


@pytest.mark.parametrize("kind", slow_but(["one layer"], KINDS))
def test_loss_gradient_and_first_order_steps_are_those_written_densely(x64, kind):
    """The penalty includes the frozen weights; the gradient has only the trained weights."""
    case = MODELS[kind]("categorical")
    written = Written(case, "identity", l2=L2)
    loss, g, _ = written(written.w)
    objective = penalised(case, L2)

    @eqx.filter_jit
    def run(model, batch):
        here = objective.linearise(model, batch, trainable=case.trainable)
        return here.loss, here.grad

    linearised, grad = run(case.model, case.batch)
    np.testing.assert_allclose(linearised, loss, rtol=1e-12)
    np.testing.assert_allclose(flat(grad), g, rtol=1e-10, atol=1e-13)
    optimiser = cv.FirstOrder(objective, optax.sgd(0.1))
    state = optimiser.init(case.model, case.trainable)
    new, _, info = optimiser.step(case.model, case.batch, state)
    np.testing.assert_allclose(written.flat(new), written.w - 0.1 * g, rtol=1e-10)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-12)
    kept = (eqx.filter(model, case.trainable, inverse=True) for model in (new, case.model))
    assert eqx.tree_equal(*kept)


@pytest.mark.parametrize(
    ("l2", "dtype"),
    slow_but(
        [(1, "float32")],
        [(1, "float32"), *((kind(L2), "float64") for kind in (np.float32, np.float64))],
    ),
)
def test_a_penalty_does_not_change_the_dtype(x64, l2, dtype):
    model = eqx.nn.Linear(3, 2, dtype=dtype, key=jax.random.key(0))
    batch = jnp.ones((4, 3), dtype), jnp.asarray([0, 1, 1, 1])
    objective = cv.Supervised(cv.Categorical(), l2=l2)
    assert jax.eval_shape(lambda: objective.loss(model, batch)).dtype == dtype
    optimiser = cv.NaturalGradient(
        objective, momentum=cv.Spring(np.float32(0.9)), damping=np.float64(0.1)
    )
    state = optimiser.init(model)
    new, after, info = eqx.filter_eval_shape(optimiser.step, model, batch, state)
    assert info.loss.dtype == info.grad_norm.dtype == dtype
    for one, other in ((new, model), (after, state)):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        assert all(a.dtype == b.dtype for a, b in pairs if eqx.is_array(b))


def test_no_penalty_costs_nothing():
    model = eqx.nn.Linear(30, 20, key=jax.random.key(0))
    batch = jnp.ones((2, 30)), jnp.ones(2, int)

    def products(l2):
        objective = cv.Supervised(cv.Categorical(), l2=l2)
        return str(jax.make_jaxpr(lambda model: objective.loss(model, batch))(model)).count("dot")

    assert products(None) + 2 == products(0.0) == products(0.1)  # one product per array
