"""A user's own curvature, loss and operator need only a few methods.

The method `factor` of a curvature may return S in any form.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import curvature as cv
from tests.curvature import dense
from tests.curvature.cases import mlp, product, supervised
from tests.curvature.tools import distance, flat
from tests.selection import slow_but

pytestmark = pytest.mark.usefixtures("x64")


class Mine(cv.AbstractPullback):
    """A curvature with S from any function (z, y, key) -> S."""

    of: Callable

    def factor(self, likelihood, z, y, *, key):
        del likelihood
        return self.of(z, y, key)


def function_operator(z, y, key):
    """S as a function: z·v minus v shifted by one entry, without a matrix."""
    del y, key
    return lx.FunctionLinearOperator(
        lambda v: z * v - jnp.roll(v, 1), jax.ShapeDtypeStruct(z.shape, z.dtype)
    )


THIN = jnp.asarray(np.random.default_rng(3).normal(size=(3, 2)).astype(np.float32))
FACTORS = {
    "matrix": lambda z, y, key: jnp.outer(z, z),
    "thin": lambda z, y, key: THIN.astype(z.dtype) * z[:, None],
    "wide": lambda z, y, key: jnp.stack([z, z**2, z**3, jnp.sin(z)], axis=1),
    "constant": lambda z, y, key: THIN.astype(z.dtype),
    "matrix_operator": lambda z, y, key: lx.MatrixLinearOperator(jnp.outer(z, z)),
    "diagonal": lambda z, y, key: lx.DiagonalLinearOperator(jnp.exp(z)),
    "identity": lambda z, y, key: lx.IdentityLinearOperator(jax.ShapeDtypeStruct(z.shape, z.dtype)),
    "function": function_operator,
    "composed": lambda z, y, key: (
        lx.DiagonalLinearOperator(z) @ lx.MatrixLinearOperator(THIN.astype(z.dtype))
    ),
    "of_the_target": lambda z, y, key: jax.nn.one_hot(y, 3)[:, None],
}


def columns(factor, z, y):
    """S as an array, for one example."""
    S = factor(z, y, None)
    return S.as_matrix() if isinstance(S, lx.AbstractLinearOperator) else S


@pytest.mark.parametrize("name", slow_but(["composed"], FACTORS))
def test_every_form_of_factor_gives_the_dense_matrix(name):
    case = supervised(mlp(jnp.tanh), "categorical")
    (term,) = case.terms

    @eqx.filter_jit
    def compiled(model, batch):
        C = Mine(FACTORS[name]).operator(case.objective.linearise(model, batch))
        J, z = term.jacobians(model, case.trainable), term.values(model)
        S = [columns(FACTORS[name], *example) for example in zip(z, batch[1], strict=True)]
        return C.as_matrix(), C.diagonal(), J, jnp.stack([s @ s.T for s in S])

    matrix, diagonal, J, M = compiled(case.model, case.batch)
    expected = dense.pullback(1 / 5, np.asarray(J), np.asarray(M))
    assert np.linalg.norm(expected) > 0
    assert distance(matrix, expected) <= 1e-10
    assert np.allclose(diagonal, np.diag(expected), rtol=1e-10, atol=1e-14)


def traced(metric, likelihood="categorical", loss=None):
    """Traces the operator of a small case, without computing it."""
    case = supervised(mlp(jnp.tanh), likelihood)
    objective = case.objective if loss is None else cv.Supervised(loss)

    def make(model, batch):
        metric.operator(objective.linearise(model, batch), key=jax.random.key(0))

    eqx.filter_eval_shape(make, case.model, case.batch)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z, y, key: jnp.ones((2, 3)),
        lambda z, y, key: jnp.ones(3),
        lambda z, y, key: jnp.ones((1, 3, 3)),
        lambda z, y, key: lx.DiagonalLinearOperator(jnp.ones(4)),
        lambda z, y, key: (jnp.ones(3), jnp.ones(3)),
        lambda z, y, key: None,
    ],
)
def test_a_factor_of_the_wrong_form_is_refused(wrong):
    with pytest.raises(
        ValueError, match=r"`Mine.factor` must return S \(c × r\) for one example, with c = 3"
    ):
        traced(Mine(wrong))


class Matrix(cv.AbstractCurvature):
    """The matrix `scale` I on flat weights, or on pytrees of weights, as an operator of lineax."""

    scale: float
    flat: bool

    def operator(self, linearisation, *, key=None):
        w, unravel = jfu.ravel_pytree(linearisation.params)
        matrix = self.scale * jnp.eye(len(w))
        tag = lx.positive_semidefinite_tag
        if self.flat:
            return lx.MatrixLinearOperator(matrix, tag)
        return lx.FunctionLinearOperator(
            lambda v: unravel(matrix @ jfu.ravel_pytree(v)[0]),
            jax.eval_shape(lambda: linearisation.params),
            tag,
        )


def test_an_operator_on_flat_weights_is_refused_and_the_proposed_one_is_accepted():
    case, damping = supervised(mlp(jnp.tanh), "categorical"), 0.25

    def step(flat):
        opt = cv.NaturalGradient(
            case.objective,
            Matrix(0.75, flat),
            lx.Cholesky(),
            damping=damping,
            search=optx.LearningRate(0.1),
        )
        return opt.step(case.model, case.batch, opt.init(case.model))

    with pytest.raises(
        ValueError, match=r"`Matrix\.operator` must return .* `MatrixLinearOp"
    ) as no:
        step(flat=True)
    assert "`lineax.FunctionLinearOperator`" in str(no.value)
    with pytest.raises(ValueError, match=r"`Matrix\.operator` must return"):
        cv.NaturalGradient(case.objective, Matrix(0.75, True)).plan(case.model, case.batch)
    model, _, info = step(flat=False)
    assert info.accepted
    here = case.objective.linearise(case.model, case.batch)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g / (0.75 + damping), here.params, here.grad)
    assert distance(flat(model), flat(expected)) <= 1e-12


class Huber(cv.AbstractLoss):
    """A loss without a distribution."""

    def nll(self, z, y):
        return jnp.sum(jnp.sqrt(1 + (z - y) ** 2))


@pytest.mark.parametrize("metric", [cv.ExactFisher(), cv.SampledFisher()])
def test_a_loss_without_a_distribution_has_no_fisher(metric):
    sentence = rf"`{type(metric).__name__}` needs `Huber\..*Subclass `AbstractLikelihood`"
    with pytest.raises(ValueError, match=sentence):
        traced(metric, "gaussian", Huber())


class Outer(cv.AbstractPositiveOperator):
    """diag(a²) + u uᵀ on a tree of weights: an operator with four methods, without registration."""

    a: dict
    u: dict

    def mv(self, vector):
        along = jnp.vdot(flat(self.u), flat(vector))
        return jax.tree.map(lambda a, u, v: a**2 * v + along * u, self.a, self.u, vector)

    def as_matrix(self):
        return jnp.diag(flat(self.a) ** 2) + jnp.outer(flat(self.u), flat(self.u))

    def diagonal(self):
        return flat(self.a) ** 2 + flat(self.u) ** 2

    def in_structure(self):
        return jax.eval_shape(lambda: self.a)


def test_an_operator_of_ones_own_is_four_methods():
    rng = np.random.default_rng(0)
    a, u, b = ({"w": rng.normal(size=(2, 3)), "v": rng.normal(size=3)} for _ in range(3))
    operator, b = Outer(*jax.tree.map(jnp.asarray, (a, u))), jax.tree.map(jnp.asarray, b)
    a, u = np.asarray(flat(operator.a)), np.asarray(flat(operator.u))
    expected = np.diag(a**2) + np.outer(u, u)
    x = np.linalg.solve(expected + 0.1 * np.eye(9), flat(b))

    @eqx.filter_jit
    def compiled(operator, b):
        whole = cv.damped(operator, 0.1)
        solvers = (cv.CG(rtol=1e-12, max_steps=50), lx.Cholesky(), cv.Auto())
        solutions = [flat(lx.linear_solve(whole, b, solver).value) for solver in solvers]
        held = lx.materialise(operator).as_matrix()
        return solutions, lx.diagonal(operator), held, product(operator, flat(b))

    solutions, diagonal, held, applied = compiled(operator, b)
    for found in solutions:
        np.testing.assert_allclose(found, x, rtol=1e-10)
    for known in (operator, operator.T, cv.damped(operator, 0.1)):
        assert lx.is_positive_semidefinite(known)
        assert lx.is_symmetric(known)
        assert not lx.is_diagonal(known)
    np.testing.assert_allclose(diagonal, np.diag(expected), rtol=1e-14)
    np.testing.assert_allclose(held, expected, rtol=1e-14)
    np.testing.assert_allclose(applied, expected @ flat(b), rtol=1e-12)
