"""The recognition of layers, for models that use their weights in many usual and unusual ways.

The rows that are computed from a recognised structure must be the true rows.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvature.rows.layout import Way
from tests.curvature.cases import supervised
from tests.curvature.tools import Fixed, check_rows, linearised as of_classifier, symmetric, ways
from tests.selection import slow_but

SIZE, DEPTH = 3, 2


def linear(seed, use_bias=True):
    return eqx.nn.Linear(SIZE, SIZE, use_bias=use_bias, key=jax.random.key(seed))


class Model(eqx.Module):
    """Some layers, and the function `fn(*layers, x)` that applies them."""

    layers: tuple
    fn: object = eqx.field(static=True)

    def __call__(self, x):
        return self.fn(*self.layers, x)


def case(fn, *layers, trainable=eqx.is_inexact_array):
    """A classifier; by default its layers are as many `linear` layers as `fn` takes."""
    count = fn.__code__.co_argcount - 1
    layers = layers or tuple(linear(seed) for seed in range(count))
    return supervised(Model(layers, fn), "categorical", trainable=trainable, n=4)


def scanned(a, b, x):
    def body(carry, _):
        return jnp.tanh(a(carry)), None

    return b(jax.lax.scan(body, x, length=3)[0])


def differentiated_twice(a, b, x):
    def network(x):
        return jnp.sum(b(jnp.tanh(a(x))))

    return jnp.diag(jax.hessian(network)(x))


def linearised(a, b, x):
    """A model in which the weights act on values and on tangents."""
    z, dz = jax.jvp(lambda x: b(jnp.tanh(a(x))), (x,), (jnp.ones_like(x),))
    return z + dz


def positions_twice(a, b, x):
    z = jax.vmap(a)(jnp.stack([x, 2 * x]))
    return b(jnp.mean(jax.vmap(a)(jnp.tanh(z)), axis=0))


@jax.custom_jvp
def doubled(w, x):
    return w @ x


@doubled.defjvp
def _doubled_jvp(primals, tangents):
    """A rule that is deliberately not the derivative: the rows must follow the rule."""
    (w, x), (dw, dx) = primals, tangents
    return doubled(w, x), 2 * (dw @ x) + w @ dx


def blocks(a):
    """A stack of layers, which are different multiples of the layer `a`."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + k) for k in range(DEPTH)]), a)


def deep(a, x, wrap=lambda block: block):
    """A `scan` over stacked layers."""
    return jax.lax.scan(wrap(lambda x, layer: (jnp.tanh(layer(x)), None)), x, a)[0]


def deep_along_a_sequence(a, x):
    """A `scan` in which each slice acts on two positions."""

    def block(x, layer):
        return jnp.tanh(jax.vmap(layer)(x)), None

    return jnp.mean(jax.lax.scan(block, jnp.stack([x, 2 * x]), a)[0], axis=0)


def deep_and_twice(a, x):
    """A `scan` in which each slice is used twice."""

    def block(x, layer):
        return jnp.tanh(layer(jnp.tanh(layer(x)))), None

    return jax.lax.scan(block, x, a)[0]


def grouped(inputs, outputs, kernel, groups, **options):
    """A one-dimensional convolution in groups of channels."""
    return eqx.nn.Conv1d(inputs, outputs, kernel, groups=groups, key=jax.random.key(0), **options)


def channels(x):
    return jnp.stack([x, 2 * x, x**2, jnp.sin(x)])


def logits(z):
    """Logits from two channels per class, summed along the sequence."""
    return jnp.sum(jnp.tanh(z), axis=1).reshape(2, SIZE).sum(axis=0)


VOCABULARY = 5


def table(dtype=None):
    """An embedding of `VOCABULARY` words."""
    return eqx.nn.Embedding(VOCABULARY, SIZE, dtype=dtype, key=jax.random.key(0))


def tokens(x):
    """Four words; some are equal, some are negative, and some are out of range."""
    return jnp.int32(jnp.floor(jnp.concatenate([4 * x, x[:1]])))


def words(x):
    """The four `tokens`, clipped to the valid indices, which include negative ones."""
    return jnp.clip(tokens(x), -VOCABULARY, VOCABULARY - 1)


def pooled(z):
    """A weighted sum of the words of a sequence; the weights depend on the positions."""
    return jnp.arange(1.0, 1 + len(z)) @ jnp.tanh(z)


def transposed(a):
    return eqx.tree_at(lambda a: a.weight, a, a.weight.T)


def gathered(mode):
    """A lookup with a `mode` for indices out of range; NaNs from the mode `fill` become zero."""

    def fn(a, x):
        z = a.weight.at[tokens(x)].get(mode=mode)
        return pooled(jnp.where(jnp.isnan(z), 0, z))

    return fn


def deep_tables(a, x):
    """A `scan` over stacked tables."""

    def block(z, a):
        return jnp.tanh(z + jax.vmap(a)(tokens(x)) * z + a(tokens(x)[0])[None]), None

    return pooled(jax.lax.scan(block, jnp.ones((4, SIZE)), a)[0])


TWO = [Way.DENSE, Way.BIAS]
GENERAL, HELD, DENSE, TOKENS, NONE = Way.GENERAL, Way.HELD, Way.DENSE, Way.TOKENS, Way.NONE
# A function of the layers a and b, and the expected `Way` of the weight and the bias of each layer.
TRICKS = {
    "once": (lambda a, b, x: b(jnp.tanh(a(x))), TWO * 2),
    "shared": (lambda a, x: a(jnp.tanh(a(x))), [HELD] * 2),
    "scanned": (scanned, [GENERAL] * 2 + TWO),
    "looped": (
        lambda a, b, x: b(jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(a(x)), x)),
        [GENERAL] * 2 + TWO,
    ),
    "branched": (
        lambda a, b, x: b(jax.lax.cond(x[0] > 0, lambda: a(x), lambda: jnp.tanh(x))),
        [GENERAL] * 2 + TWO,
    ),
    "read_outside": (
        lambda a, b, x: b(jnp.tanh(a(x))) + jnp.sum(a.weight, axis=0),
        [GENERAL, HELD, *TWO],
    ),
    "normalised": (
        lambda a, x: (a.weight / jnp.linalg.norm(a.weight)) @ x + a.bias,
        [GENERAL, HELD],
    ),
    # A linear encoder whose transpose is the decoder.
    "tied": (lambda a, x: a.weight.T @ jnp.tanh(a.weight @ x), [HELD, NONE]),
    "quadratic": (lambda a, x: a.weight @ (a.weight @ x), [HELD, NONE]),
    "squared": (lambda a, x: (a.weight * a.weight) @ x + a.bias**2, [HELD, GENERAL]),
    # Both factors of the product are the weight.
    "by_itself": (lambda a, x: (a.weight @ a.weight.T) @ x, [HELD, NONE]),
    # The derivative of the model with respect to its input, as in physics-informed networks.
    "differentiated": (
        lambda a, b, x: b(jax.grad(lambda x: jnp.sum(jnp.tanh(a(x)) ** 2))(x)),
        [HELD, HELD, *TWO],
    ),
    "differentiated_twice": (differentiated_twice, [HELD] * 4),
    "linearised": (linearised, [HELD] * 4),
    "checkpointed": (
        lambda a, b, x: b(jax.checkpoint(lambda x: jnp.tanh(a(x)))(x)),
        TWO * 2,
    ),
    "positions": (
        lambda a, b, x: b(jnp.mean(jnp.tanh(jax.vmap(a)(jnp.stack([x, 2 * x]))), axis=0)),
        [HELD, HELD, *TWO],
    ),
    "positions_twice": (positions_twice, [HELD, HELD, *TWO]),
    # This `vmap` is over the rows of the weight, not over positions.
    "vmapped_weights": (
        lambda a, x: jax.vmap(lambda row: jnp.tanh(row @ x))(a.weight),
        [DENSE, NONE],
    ),
    "transposed": (lambda a, x: jnp.tanh(x) @ a.weight, [DENSE, NONE]),
    "transposed_view": (lambda a, x: a.weight.T @ jnp.tanh(x) + a.bias, TWO),
    "reshaped": (
        lambda a, x: a.weight.reshape(-1)[: SIZE * SIZE].reshape(SIZE, SIZE) @ x,
        [GENERAL, NONE],
    ),
    "sliced": (
        lambda a, x: jnp.concatenate([a.weight[:1] @ x, a.weight[1:] @ jnp.sin(x)]),
        [GENERAL, NONE],
    ),
    # An embedding, whose index depends on a value.
    "indexed": (lambda a, x: a.weight[jnp.int32(jnp.sum(x) > 0)], [TOKENS, NONE]),
    "bias_twice": (lambda a, x: jnp.tanh(a(x)) + a.bias, [DENSE, HELD]),
    "bias_along_two_axes": (
        lambda a, x: jnp.sum(jnp.tanh(jnp.outer(x, x) + a.bias[None, :]) * a.bias[:, None], axis=0),
        [NONE, HELD],
    ),
    "scale": (lambda a, x: a.bias * jnp.tanh(x) - a.weight @ x, [DENSE, HELD]),
    "unused": (lambda a, b, x: jnp.tanh(a(x)), [*TWO, NONE, NONE]),
    "is_output": (lambda a, x: a.bias, [NONE, GENERAL]),
    "added_to_output": (lambda a, x: jnp.tanh(x) + a.bias, [NONE, HELD]),
    "custom_rule": (lambda a, x: doubled(a.weight, x), [GENERAL, NONE]),
    "stopped": (
        lambda a, b, x: b(jnp.tanh(jax.lax.stop_gradient(a.weight) @ x + a.bias)),
        [GENERAL, HELD, *TWO],
    ),
    "partly_stopped": (
        lambda a, x: a.weight @ x + jax.lax.stop_gradient(a.weight) @ jnp.sin(x),
        [GENERAL, NONE],
    ),
    "through_numpy_broadcast": (
        lambda a, x: jnp.sum(a.weight * x[None, :], axis=1),
        [HELD, NONE],
    ),
    "einsum": (lambda a, x: jnp.einsum("oi,i,i->o", a.weight, x, jnp.cos(x)), [DENSE, NONE]),
    # This product is batched over an axis of the weight.
    "batched_product": (
        lambda a, x: jnp.einsum("oi,oi->o", a.weight, jnp.stack([x, 2 * x, x**2])),
        [GENERAL, NONE],
    ),
}
STACKS = {
    "deep": (deep, TWO),
    "deep_checkpointed": (lambda a, x: deep(a, x, jax.checkpoint), TWO),
    "checkpointed_whole": (lambda a, x: jax.checkpoint(deep)(a, x), TWO),
    "deep_along_a_sequence": (deep_along_a_sequence, [HELD] * 2),
    "deep_and_twice": (deep_and_twice, [HELD] * 2),
    # One slice is also used outside of the scan.
    "deep_and_read": (lambda a, x: deep(a, x) + a.weight[0] @ x, [GENERAL, HELD]),
}
# The same for convolutions, with a function that makes the layers.
CONVOLUTIONS = {
    "grouped": (lambda a, x: logits(a(channels(x))), lambda: [grouped(4, 6, 2, 2)], [HELD] * 2),
    "grouped_at_one_position": (
        lambda a, x: logits(a(channels(x))),
        lambda: [grouped(4, 6, 3, 2)],
        TWO,
    ),
    "depthwise": (
        lambda a, b, x: logits(b(jnp.tanh(a(channels(x))))),
        lambda: [grouped(4, 4, 3, 4, padding=2, dilation=2), grouped(4, 6, 3, 1, use_bias=False)],
        [HELD, HELD, DENSE],
    ),
    "grouped_twice": (
        lambda a, x: logits(jnp.tile(a(jnp.tanh(a(channels(x)))), (3, 1))[:6]),
        lambda: [grouped(4, 4, 1, 2)],
        [HELD] * 2,
    ),
    # JAX turns a `vmap` over kernels into a convolution in groups with a transposed weight.
    "vmapped_kernels": (
        lambda a, x: logits(
            jax.vmap(lambda a, x: a(x))(a, jnp.stack([channels(x), 2 * channels(x)])).reshape(6, -1)
        ),
        lambda: [blocks(eqx.nn.Conv1d(4, 3, 2, key=jax.random.key(0)))],
        [GENERAL, HELD],
    ),
    "deep_and_grouped": (
        lambda a, x: logits(jnp.tile(deep(a, channels(x)), (3, 1))[:6]),
        lambda: [blocks(grouped(4, 4, 1, 2))],
        [HELD] * 2,
    ),
}
# The same for tables, from which rows are looked up.
TABLES = {
    "embedding": (lambda a, x: pooled(jax.vmap(a)(tokens(x))), lambda: [table()], [TOKENS]),
    "embedding_of_one": (lambda a, x: a(tokens(x)[0]), lambda: [table()], [TOKENS]),
    "embedding_and_layer": (
        lambda a, b, x: b(pooled(jax.vmap(a)(words(x)))),
        lambda: [table(), linear(0)],
        [TOKENS, *TWO],
    ),
    "by_index": (lambda a, x: pooled(a.weight[words(x)]), lambda: [table()], [TOKENS]),
    "by_index_in_two_axes": (
        lambda a, x: pooled(jnp.sin(a.weight[words(x).reshape(2, 2)]).sum(axis=1)),
        lambda: [table()],
        [TOKENS],
    ),
    "taken": (
        lambda a, x: pooled(jnp.nan_to_num(jnp.take(a.weight, tokens(x), axis=0))),
        lambda: [table()],
        [TOKENS],
    ),
    "taken_along_columns": (
        lambda a, x: pooled(jnp.take(a.weight, words(x), axis=1).T),
        lambda: [transposed(table())],
        [TOKENS],
    ),
    "one_column": (
        lambda a, x: jnp.tanh(a.weight[:, tokens(x)[0]]),
        lambda: [transposed(table())],
        [TOKENS],
    ),
    "taken_of_a_transpose": (
        lambda a, x: pooled(a.weight.T[words(x)]),
        lambda: [transposed(table())],
        [TOKENS],
    ),
    "clipped": (gathered("clip"), lambda: [table()], [TOKENS]),
    "filled": (gathered("fill"), lambda: [table()], [TOKENS]),
    "looked_up_twice": (
        lambda a, x: pooled(jax.vmap(a)(words(x)[:3])) * a(words(x)[3]),
        lambda: [table()],
        [TOKENS],
    ),
    "with_bias": (
        lambda a, b, x: pooled(a.weight[words(x)] + b.bias[None]),
        lambda: [table(), linear(0)],
        [TOKENS, NONE, HELD],
    ),
    # With more words than the table has rows, tokens save no memory, so the full rows are held.
    "many_words": (
        lambda a, x: pooled(a.weight[jnp.tile(words(x), 2)]),
        lambda: [table()],
        [HELD],
    ),
    # The table is also the matrix of the last layer.
    "tied_table": (
        lambda a, x: (a.weight @ pooled(a.weight[words(x)]))[:SIZE],
        lambda: [table()],
        [HELD],
    ),
    # The table is used for a mixture of words with probabilities, and for a single word.
    "soft_words": (
        lambda a, x: jax.nn.softmax(jnp.arange(5.0) * x[0]) @ a.weight + a(words(x)[0]),
        lambda: [table()],
        [HELD],
    ),
    "one_hot": (
        lambda a, x: pooled(jax.nn.one_hot(words(x), VOCABULARY, dtype=x.dtype) @ a.weight),
        lambda: [table()],
        [HELD],
    ),
    "single_numbers": (
        lambda a, x: a.weight[words(x)[:SIZE], jnp.arange(SIZE)],
        lambda: [table()],
        [GENERAL],
    ),
    "two_rows_at_once": (
        lambda a, x: pooled(
            jax.lax.dynamic_slice(a.weight, (words(x)[0], jnp.int32(0)), (2, SIZE))
        ),
        lambda: [table()],
        [GENERAL],
    ),
    "small_numbers": (
        lambda a, x: pooled(
            jax.lax.gather(
                a.weight,
                jnp.abs(words(x)).astype("uint8")[:, None],
                jax.lax.GatherDimensionNumbers((1,), (0,), (0,)),
                (1, SIZE),
                mode="clip",
            )
        ),
        lambda: [table()],
        [GENERAL],
    ),
    "deep_tables": (deep_tables, lambda: [blocks(table())], [HELD]),
    "deep_tables_of_one": (
        lambda a, x: jax.lax.scan(lambda z, a: (jnp.tanh(z * a(words(x)[0])), None), x, a)[0],
        lambda: [blocks(table())],
        [TOKENS],
    ),
    "checkpointed_table": (
        lambda a, x: pooled(jax.checkpoint(lambda t: jnp.tanh(a.weight[t]))(words(x))),
        lambda: [table()],
        [TOKENS],
    ),
}
LAYERS = CONVOLUTIONS | TABLES


def case_named(name):
    """The case with this name in one of the tables."""
    if name in LAYERS:
        fn, layers, _ = LAYERS[name]
        return case(fn, *layers())
    if name in STACKS:
        return case(STACKS[name][0], blocks(linear(0)))
    return case(TRICKS[name][0])


QUICK = ["shared", "read_outside", "deep_checkpointed", "embedding"]


@pytest.mark.parametrize("name", slow_but(QUICK, [*TRICKS, *STACKS, *LAYERS]))
def test_rows_are_the_dense_rows_for_every_use_of_a_layer(x64, name):
    check_rows(case_named(name), matrices=name in ("checkpointed", *STACKS, *LAYERS))


@pytest.mark.parametrize(
    "names",
    [
        [
            *("checkpointed", "shared", "tied", "scanned", "branched", "read_outside"),
            *("grouped", "embedding", "tied_table", *STACKS),
        ],
        pytest.param([*TRICKS, *LAYERS], marks=pytest.mark.slow),
    ],
    ids=["quick", "all"],
)
def test_each_weight_has_its_expected_way(x64, names):
    """A weight is `GENERAL` if it enters a whole loop, a branch or an unknown operation."""
    expected = {name: (TRICKS | STACKS | LAYERS)[name][-1] for name in names}
    assert {name: ways(case_named(name)) for name in names} == expected


class Doubled(eqx.nn.Linear):
    """A subclass of `Linear` that computes something else."""

    def __call__(self, x, *, key=None):
        del key
        return 2 * jnp.tanh(self.weight.T @ x) + self.bias * x


def test_a_subclass_of_a_layer_is_recognised_by_its_computation(x64):
    found = case(lambda a, x: a(x), Doubled(SIZE, SIZE, key=jax.random.key(0)))
    assert ways(found) == [DENSE, HELD]


def test_one_array_in_two_layers_is_two_weights(x64):
    """Equinox treats them as two leaves, which differ as soon as they are trained."""
    first, second = linear(0), linear(1)
    second = eqx.tree_at(lambda layer: layer.weight, second, first.weight)
    assert ways(case(TRICKS["once"][0], first, second)) == TWO * 2


@pytest.mark.parametrize(("part", "way"), [("weight", DENSE), ("bias", HELD)])
def test_a_layer_of_which_only_a_part_is_trained(x64, part, way):
    layers = linear(0), linear(1)
    nothing = jax.tree.map(lambda _: False, Model(layers, TRICKS["once"][0]))
    trainable = eqx.tree_at(lambda m: getattr(m.layers[0], part), nothing, True)
    assert ways(case(TRICKS["once"][0], *layers, trainable=trainable)) == [way]


def test_rows_of_a_matrix_in_half_precision_are_computed_in_single_precision():
    """The other weights are float32, as in a mixed-precision model.

    The rows must be those of the inputs rounded to bfloat16.
    """
    layer = linear(0)
    half = eqx.tree_at(lambda a: a.weight, layer, layer.weight.astype(jnp.bfloat16))

    def fn(a, x):
        return (a.weight @ x.astype(jnp.bfloat16)).astype(jnp.float32) + a.bias

    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(4, SIZE)), jnp.float32), jnp.asarray([0, 1, 2, 0])

    @eqx.filter_jit
    def compiled(model, batch):
        C = Fixed().operator(of_classifier(model, batch))
        return C.linearisation.params, C.rows(C.layout()).gram()

    params, gram = compiled(Model((half,), fn), (x, y))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    gram = symmetric(gram)
    # ∂z/∂(W, b) of z = W x + b for the rows of S, with x in half precision.
    S, rounded = Fixed().columns(SIZE), np.asarray(x.astype(jnp.bfloat16), np.float64)
    rows = [np.concatenate([np.kron(s, a), s]) for s in S.T for a in rounded]
    A = np.stack(rows) / 2
    np.testing.assert_allclose(gram, A @ A.T, atol=0.02 * np.abs(A @ A.T).max())
