"""A dense reference: loss, gradient and C of a case as functions of its flat weights.

The other functions run steps of an optimiser and compare them with the reference.
"""

import itertools

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
import numpy as np

import curvature as cv
from tests.curvature import cases, dense, references

METRICS = {name: metric for name, metric in references.METRICS.items() if name != "true_fisher"}
# One exact solver of each kind. The result of a step must not depend on the choice.
SOLVERS = {
    "sample space": cv.SampleSpace(),
    "Cholesky": lx.Cholesky(),
    "CG": cv.CG(rtol=1e-13, max_steps=500),
}


class OneLayer(eqx.Module):
    """The smallest model whose curvature depends on the weights."""

    linear: eqx.nn.Linear

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


class Line(eqx.Module):
    """A model with one output, which is linear in the weights w."""

    w: jax.Array

    def __call__(self, x):
        return (x @ self.w)[None]


class Cliff(cv.AbstractLoss):
    """A loss that is z² at z = 1 and 10 + z elsewhere: no short step from z = 1 reduces it."""

    def nll(self, z, y):
        del y
        return jnp.sum(jnp.where(jax.lax.stop_gradient(z) == 1, z**2, 10.0 + z))


def one_layer(inputs=3, outputs=3):
    return OneLayer(eqx.nn.Linear(inputs, outputs, use_bias=False, key=jax.random.key(1)))


# The models of the table, and one more, which compiles fastest.
MODELS = {"one layer": lambda likelihood: cases.supervised(one_layer(), likelihood), **cases.MODELS}


class Written:
    """The dense reference: the loss and its gradient with the penalty, and C without the penalty.

    **Arguments:** `metric`, the name of the curvature; `l2`, the strength of the penalty; `first`,
    how many examples of each term C has, or None for all.
    """

    def __init__(self, case, metric, l2=0.0, first=None):
        params, frozen = eqx.partition(case.model, case.trainable)
        w, unravel = jfu.ravel_pytree(params)
        self.w = np.asarray(w)

        def model(w):
            return eqx.combine(unravel(w), frozen)

        def loss(w):
            arrays = jax.tree.leaves(eqx.filter(model(w), eqx.is_inexact_array))
            return dense.loss(case.terms, model(w)) + l2 / 2 * sum(jnp.sum(a**2) for a in arrays)

        def matrix(w):
            if metric == "identity":
                return jnp.eye(w.size)
            total = jnp.zeros((w.size, w.size))
            for term in case.terms:
                J = term.jacobians(model(w), case.trainable)[:first]
                per_example = jax.vmap(METRICS[metric](term.distribution))
                M = per_example(term.values(model(w)), term.targets)[:first]
                total += term.weight / len(M) * jnp.einsum("icp,icd,idq->pq", J, M, J)
            return total

        self.flat = lambda model: flat(eqx.filter(model, case.trainable))
        self._loss = jax.jit(loss)
        self._all = jax.jit(lambda w: (loss(w), jax.grad(loss)(w), matrix(w)))

    def loss(self, w):
        return float(self._loss(w))

    def __call__(self, w):
        """L, g and C."""
        loss, g, C = self._all(w)
        return float(loss), np.asarray(g), np.asarray(C)


def flat(tree):
    """All floating-point arrays of a tree as one NumPy vector."""
    return np.asarray(jfu.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])


def penalised(case, l2):
    """The objective of a case with a penalty of strength `l2`."""
    objective = case.objective
    if isinstance(objective, cv.Objective):
        return cv.Objective(objective.by_name, l2=l2)
    return type(objective)(objective.likelihood, l2=l2)


def check_step(info, w, new, written, H, message="", expected=None):
    """Checks what a step from w to `new` reports; H is the matrix of the quadratic model.

    `expected` holds the new weights, or None if they are unknown. The damping or the search must
    need the reduction ratio, so that it is computed.
    """
    (loss, g, _), delta = written(w), new - w
    if expected is not None:
        np.testing.assert_allclose(new, expected, rtol=1e-7, atol=1e-10, err_msg=message)
    metric = delta @ H @ delta / 2
    numbers = {
        "loss": loss,
        "grad_norm": np.linalg.norm(g),
        "step_norm": np.linalg.norm(delta),
        "metric_step": metric,
        "reduction_ratio": (loss - written.loss(new)) / -(delta @ g + metric),
    }
    for field, value in numbers.items():
        found = getattr(info, field)
        np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=f"{message}: {field}")
    assert info.accepted, message
    assert cv.RESULTS[info.result] == ""


def drawn(case, keys):
    """A function (w, k) -> the sampled Fisher at weights w in the step with `keys[k]`.

    The library computes this matrix, since a draw has no independent definition.
    """

    @eqx.filter_jit
    def matrix(model, key):
        here = case.objective.linearise(model, case.batch, trainable=case.trainable)
        fisher = cv.SampledFisher(cases.SAMPLES)
        return fisher.operator(here, key=jax.random.split(key)[1]).as_matrix()

    unravel = jfu.ravel_pytree(eqx.filter(case.model, case.trainable))[1]
    return lambda w, k: np.asarray(matrix(eqx.combine(unravel(w), case.model), keys[k]))


def trajectory(case, optimiser, keys, batches=None):
    """The flat weights before and after each step, [steps + 1, P], and the `Info` of the steps.

    All steps are one program. `batches` has a leading axis of steps; by default every step has the
    batch of the case.
    """
    params, frozen = eqx.partition(case.model, eqx.is_inexact_array)
    assert jax.tree.leaves(eqx.filter(case.model, case.trainable))

    def ravelled(model):
        return jfu.ravel_pytree(eqx.filter(model, case.trainable))[0]

    def body(carry, each):
        params, state = carry
        key, batch = each
        batch = case.batch if batch is None else batch
        model, state, info = optimiser.step(eqx.combine(params, frozen), batch, state, key=key)
        params = eqx.filter(model, eqx.is_inexact_array)
        return (params, state), (ravelled(model), info)

    @jax.jit
    def run(params, keys, batches):
        state = optimiser.init(case.model, case.trainable, case.batch)
        _, (after, infos) = jax.lax.scan(body, (params, state), (keys, batches))
        return jnp.concatenate([ravelled(case.model)[None], after]), infos

    ws, infos = run(params, keys, batches)
    return np.asarray(ws), infos


def steps(ws, infos):
    """Iterates over a trajectory: k, the weights before and after step k, and its `Info`."""
    for k, (w, new) in enumerate(itertools.pairwise(ws)):
        yield k, w, new, at(infos, k)


def at(tree, k):
    """Entry k of every array of a tree; k is the number of a step or of a lane of `vmap`."""
    return jax.tree.map(lambda leaf: leaf[k] if eqx.is_array(leaf) else leaf, tree)


def poisoned(case, steps, which):
    """The batch of a case, repeated `steps` times; all floats of step `which` are NaN."""
    flags = jnp.arange(steps) == which

    def stacked(leaf):
        bad = flags.reshape(-1, *[1] * leaf.ndim)
        many = jnp.broadcast_to(leaf, (steps, *leaf.shape))
        is_float = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.where(bad, jnp.full((), jnp.nan, leaf.dtype), many) if is_float else many

    return jax.tree.map(stacked, case.batch)
