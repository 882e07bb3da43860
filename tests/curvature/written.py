"""A case as functions of its flat weights, densely; nothing here calls `curvature`."""

import equinox as eqx
import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import numpy as np

from tests.curvature import dense

METRICS = {
    "empirical_fisher": dense.empirical_fisher,
    "exact_fisher": dense.exact_fisher,
    "gauss_newton": dense.gauss_newton,
}


class Written:
    """Loss with its penalty, gradient, and curvature without it."""

    def __init__(self, case, metric, l2=0.0, curvature_batch=None):
        params, frozen = eqx.partition(case.model, case.trainable)
        w, unravel = jfu.ravel_pytree(params)
        self.w = np.asarray(w)

        def model(w):
            return eqx.combine(unravel(w), frozen)

        def loss(w):
            arrays = jax.tree.leaves(eqx.filter(model(w), eqx.is_inexact_array))
            return dense.loss(case.terms, model(w)) + l2 / 2 * sum(jnp.sum(a**2) for a in arrays)

        def matrix(w):
            total = jnp.zeros((w.size, w.size))
            for term in case.terms:
                J = term.jacobians(model(w), case.trainable)[:curvature_batch]
                per_example = jax.vmap(METRICS[metric](term.distribution))
                M = per_example(term.values(model(w)), term.targets)[:curvature_batch]
                total += term.weight / len(M) * jnp.einsum("icp,icd,idq->pq", J, M, J)
            return total

        self._loss = jax.jit(loss)
        self._all = jax.jit(lambda w: (loss(w), jax.grad(loss)(w), matrix(w)))

    def loss(self, w):
        return float(self._loss(w))

    def __call__(self, w):
        """L, g and C."""
        loss, g, C = self._all(w)
        return float(loss), np.asarray(g), np.asarray(C)


def trajectory(case, optimiser, keys, batches=None):
    """The flat weights before and after each step, [steps + 1, P], and what the steps report.

    To be traced: `batches` have a leading axis of steps, by default all are the case's own.
    """
    params, frozen = eqx.partition(case.model, eqx.is_inexact_array)
    chosen = jax.tree.leaves(eqx.filter(case.model, case.trainable))
    assert chosen

    def flat(model):
        return jfu.ravel_pytree(eqx.filter(model, case.trainable))[0]

    def body(carry, each):
        params, state = carry
        key, batch = each
        batch = case.batch if batch is None else batch
        model, state, info = optimiser.step(eqx.combine(params, frozen), batch, state, key=key)
        params = eqx.filter(model, eqx.is_inexact_array)
        return (params, state), (flat(model), info)

    start = params, optimiser.init(case.model, case.trainable)
    _, (after, infos) = jax.lax.scan(body, start, (keys, batches))
    return jnp.concatenate([flat(case.model)[None], after]), infos


def at(infos, k):
    """What step k reports."""
    return jax.tree.map(lambda leaf: leaf[k], infos)


def poisoned(case, steps, which):
    """The batch of a case, `steps` times over, with a NaN among the inputs of step `which`."""
    flags = jnp.arange(steps) == which

    def stacked(leaf):
        bad = flags.reshape(-1, *[1] * leaf.ndim)
        many = jnp.broadcast_to(leaf, (steps, *leaf.shape))
        is_float = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.where(bad, jnp.full((), jnp.nan, leaf.dtype), many) if is_float else many

    return jax.tree.map(stacked, case.batch)
