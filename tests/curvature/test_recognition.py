"""Attempts to fool the recognition of layers: what it claims to know must be so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from curvature.rows.layout import Way
from tests.curvature.test_rows import check

N, SIZE = 5, 3


def linear(seed, use_bias=True):
    return eqx.nn.Linear(SIZE, SIZE, use_bias=use_bias, key=jax.random.key(seed))


class Model(eqx.Module):
    """Some layers, and what is done with them."""

    layers: tuple
    fn: object = eqx.field(static=True)

    def __call__(self, x):
        return self.fn(*self.layers, x)


def operator(fn, *layers, shape=(SIZE,), trainable=eqx.is_inexact_array, curvature=None):
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(N, *shape))), jnp.asarray(rng.integers(SIZE, size=N))
    objective = cv.Supervised(cv.Categorical())
    linearisation = objective.linearise(Model(layers, fn), batch, trainable=trainable)
    return (curvature or cv.ExactFisher()).operator(linearisation)


def shared(a, x):
    return a(jnp.tanh(a(x)))


def scanned(a, b, x):
    def body(carry, _):
        return jnp.tanh(a(carry)), None

    return b(jax.lax.scan(body, x, length=3)[0])


def looped(a, b, x):
    return b(jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(a(x)), x))


def branched(a, b, x):
    return b(jax.lax.cond(x[0] > 0, lambda: a(x), lambda: jnp.tanh(x)))


def read_outside(a, b, x):
    return b(jnp.tanh(a(x))) + jnp.sum(a.weight, axis=0)


def normalised(a, x):
    return (a.weight / jnp.linalg.norm(a.weight)) @ x + a.bias


def tied(a, x):
    """An encoder, and its transpose as a decoder."""
    return a.weight.T @ jnp.tanh(a.weight @ x)


def quadratic(a, x):
    return a.weight @ (a.weight @ x)


def squared(a, x):
    return (a.weight * a.weight) @ x + a.bias**2


def by_itself(a, x):
    """The weight as the other factor, too."""
    return (a.weight @ a.weight.T) @ x


def differentiated(a, b, x):
    """The model's derivative by its input, as in physics-informed networks."""
    return b(jax.grad(lambda x: jnp.sum(jnp.tanh(a(x)) ** 2))(x))


def differentiated_twice(a, b, x):
    def network(x):
        return jnp.sum(b(jnp.tanh(a(x))))

    return jnp.diag(jax.hessian(network)(x))


def linearised(a, b, x):
    """The weights act on values and on tangents."""
    z, dz = jax.jvp(lambda x: b(jnp.tanh(a(x))), (x,), (jnp.ones_like(x),))
    return z + dz


def checkpointed(a, b, x):
    return b(jax.checkpoint(lambda x: jnp.tanh(a(x)))(x))


def positions(a, b, x):
    return b(jnp.mean(jnp.tanh(jax.vmap(a)(jnp.stack([x, 2 * x]))), axis=0))


def positions_twice(a, b, x):
    z = jax.vmap(a)(jnp.stack([x, 2 * x]))
    return b(jnp.mean(jax.vmap(a)(jnp.tanh(z)), axis=0))


def vmapped_weights(a, x):
    """A vmap over the rows of the weight, not over positions."""
    return jax.vmap(lambda row: jnp.tanh(row @ x))(a.weight)


def transposed(a, x):
    return jnp.tanh(x) @ a.weight


def transposed_view(a, x):
    return a.weight.T @ jnp.tanh(x) + a.bias


def reshaped(a, x):
    return a.weight.reshape(-1)[: SIZE * SIZE].reshape(SIZE, SIZE) @ x


def sliced(a, x):
    return jnp.concatenate([a.weight[:1] @ x, a.weight[1:] @ jnp.sin(x)])


def indexed(a, x):
    """An embedding: rows picked by a value."""
    return a.weight[jnp.int32(jnp.sum(x) > 0)]


def bias_twice(a, x):
    return jnp.tanh(a(x)) + a.bias


def bias_along_two_axes(a, x):
    return jnp.sum(jnp.tanh(jnp.outer(x, x) + a.bias[None, :]) * a.bias[:, None], axis=0)


def scale(a, x):
    return a.bias * jnp.tanh(x) - a.weight @ x


def unused(a, b, x):
    del b
    return jnp.tanh(a(x))


def is_output(a, x):
    del x
    return a.bias


def added_to_output(a, x):
    return jnp.tanh(x) + a.bias


@jax.custom_jvp
def doubled(w, x):
    return w @ x


@doubled.defjvp
def _doubled_jvp(primals, tangents):
    """A derivative that is not the function's: what automatic differentiation says, counts."""
    (w, x), (dw, dx) = primals, tangents
    return doubled(w, x), 2 * (dw @ x) + w @ dx


def custom_rule(a, x):
    return doubled(a.weight, x)


def stopped(a, b, x):
    return b(jnp.tanh(jax.lax.stop_gradient(a.weight) @ x + a.bias))


def partly_stopped(a, x):
    return a.weight @ x + jax.lax.stop_gradient(a.weight) @ jnp.sin(x)


def through_numpy_broadcast(a, x):
    return jnp.sum(a.weight * x[None, :], axis=1)


def einsum(a, x):
    return jnp.einsum("oi,i,i->o", a.weight, x, jnp.cos(x))


def batched_product(a, x):
    """A product that is batched over an axis of the weight."""
    return jnp.einsum("oi,oi->o", a.weight, jnp.stack([x, 2 * x, x**2]))


TRICKS = {
    fn.__name__: fn
    for fn in (
        *(shared, scanned, looped, branched, read_outside, normalised, tied, quadratic, squared),
        *(by_itself, differentiated, differentiated_twice, linearised, checkpointed, positions),
        *(positions_twice, vmapped_weights, transposed, transposed_view, reshaped, sliced, indexed),
        *(bias_twice, bias_along_two_axes, scale, unused, is_output, added_to_output, custom_rule),
        *(stopped, partly_stopped, through_numpy_broadcast, einsum, batched_product),
    )
}


def layers_for(fn):
    count = fn.__code__.co_argcount - 1
    return tuple(linear(seed) for seed in range(count))


@pytest.mark.parametrize("name", TRICKS)
def test_rows_are_right_whatever_is_done_with_a_layer(x64, name):
    fn = TRICKS[name]
    check(operator(fn, *layers_for(fn)))


# --- what is recognised ----------------------------------------------------------------------


def ways(fn, **options):
    """The way of each weight: of a's weight and bias, then of b's."""
    return list(operator(fn, *layers_for(fn), **options).layout().ways)


@pytest.mark.parametrize(
    "name", ["shared", "read_outside", "normalised", "tied", "quadratic", "squared", "by_itself"]
)
def test_a_weight_that_is_taken_more_than_once_is_not_recognised(x64, name):
    assert ways(TRICKS[name])[0] is Way.GENERAL


@pytest.mark.parametrize("name", ["scanned", "looped", "branched", "custom_rule", "checkpointed"])
def test_nor_is_one_that_enters_a_loop_a_branch_or_a_rule(x64, name):
    assert ways(TRICKS[name])[0] is Way.GENERAL


@pytest.mark.parametrize("name", ["differentiated", "differentiated_twice", "linearised"])
def test_nor_is_one_of_a_model_that_is_differentiated(x64, name):
    assert ways(TRICKS[name])[0] is Way.GENERAL


@pytest.mark.parametrize("name", ["transposed", "transposed_view"])
def test_a_matrix_is_recognised_from_both_sides(x64, name):
    assert ways(TRICKS[name])[0] is Way.DENSE


def test_a_layer_along_a_sequence_is_held(x64):
    assert ways(positions) == [Way.HELD, Way.HELD, Way.DENSE, Way.HELD]


def test_a_weight_without_influence_has_no_rows(x64):
    assert ways(unused)[2:] == [Way.NONE, Way.NONE]


class Doubled(eqx.nn.Linear):
    """A `Linear` by its class, but not by what it does."""

    def __call__(self, x, *, key=None):
        del key
        return 2 * jnp.tanh(self.weight.T @ x) + self.bias * x


def test_a_subclass_is_known_by_what_it_does(x64):
    layer = Doubled(SIZE, SIZE, key=jax.random.key(0))
    found = operator(lambda a, x: a(x), layer)
    assert list(found.layout().ways) == [Way.DENSE, Way.HELD]
    check(found)


def test_one_array_in_two_layers_is_two_weights(x64):
    """Equinox knows leaves by their place: trained, they part."""
    first, second = linear(0), linear(1)
    second = eqx.tree_at(lambda layer: layer.weight, second, first.weight)
    found = operator(stacked, first, second)
    assert [way for way in found.layout().ways if way is Way.DENSE] == [Way.DENSE] * 2
    check(found)


def stacked(a, b, x):
    return b(jnp.tanh(a(x)))


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_layer_of_which_only_a_part_is_trained(x64, part):
    layers = linear(0), linear(1)
    nothing = jax.tree.map(lambda _: False, Model(layers, stacked))
    trainable = eqx.tree_at(lambda m: getattr(m.layers[0], part), nothing, True)
    found = operator(stacked, *layers, trainable=trainable)
    assert len(found.layout().ways) == 1
    check(found)


def test_mixed_dtypes_are_left_to_automatic_differentiation():
    """A matrix in half precision beside float32: not recognised, and solved like the rest."""
    layer = linear(0)
    half = eqx.tree_at(lambda a: a.weight, layer, layer.weight.astype(jnp.bfloat16))
    rng = np.random.default_rng(0)
    batch = (
        jnp.asarray(rng.normal(size=(N, SIZE)), jnp.float32),
        jnp.asarray(rng.integers(SIZE, size=N)),
    )

    def fn(a, x):
        return (a.weight @ x.astype(jnp.bfloat16)).astype(jnp.float32) + a.bias

    linearisation = cv.Supervised(cv.Categorical()).linearise(Model((half,), fn), batch)
    found = cv.ExactFisher().operator(linearisation)
    rows = found.rows(found.layout())
    A = np.stack(
        [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(rows.transpose_mv(e))])
            for e in jnp.eye(rows.size)
        ]
    ).astype(np.float64)
    gram = np.asarray(rows.gram().as_symmetric_matrix())
    np.testing.assert_allclose(gram, A @ A.T, atol=0.02 * np.abs(A @ A.T).max())
