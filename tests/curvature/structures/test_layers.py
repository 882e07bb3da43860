"""The structures of layers that are more than one matrix times vectors."""

import functools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases, dense
from tests.curvature.structures import laws
from tests.curvature.test_recognition import LAYERS, case, channels, grouped, logits, made, words
from tests.curvature.tools import distance
from tests.selection import slow_but

STRUCTURES = [cv.KFAC, cv.EKFAC, cv.BlockDiagonal, cv.Diagonal]


def operators(case, structures, of=None):
    """The structures of one curvature, by default of Gauss–Newton's."""
    of = cv.GaussNewton() if of is None else of

    @eqx.filter_jit
    def run(model, batch):
        here = case.objective.linearise(model, batch, trainable=case.trainable)
        return [structure(of).operator(here) for structure in structures]

    return run(case.model, case.batch)


@pytest.mark.parametrize("structure", slow_but([cv.EKFAC], [cv.KFAC, cv.EKFAC]))
def test_a_convolution_in_groups_has_the_blocks_of_its_groups_as_layers(x64, structure):
    layer = grouped(4, 6, 2, 2)
    halves = [
        eqx.tree_at(
            lambda c: (c.weight, c.bias), grouped(2, 3, 2, 1), (layer.weight[of], layer.bias[of])
        )
        for of in (slice(0, 3), slice(3, 6))
    ]
    together = case(lambda a, x: logits(a(channels(x))), layer)
    apart = case(
        lambda a, b, x: logits(jnp.concatenate([a(channels(x)[:2]), b(channels(x)[2:])])), *halves
    )
    rng = np.random.default_rng(0)
    vector = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), eqx.filter(apart.model, eqx.is_array)
    )
    (of_whole,), (of_halves,) = (operators(one, [structure]) for one in (together, apart))
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *vector.layers)
    (found,) = of_whole.mv(eqx.tree_at(lambda m: m.layers, vector, (joined,))).layers
    first, second = of_halves.mv(vector).layers
    for of_whole, *of_halves in zip(*map(jax.tree.leaves, (found, first, second)), strict=True):
        assert distance(of_whole, np.concatenate(of_halves)) <= 1e-12


def written(case):
    """G and the diagonal of A of the table of `cases.words`, by plain Jacobians.

    With *expand*: Δ_it = ∂z_i/∂y_it for the vector y_it of word t; no table is in the way.
    """
    x, y = case.batch
    model = case.model
    vectors = jnp.take(model.table.weight, clipped(x), axis=0)
    J = jax.vmap(jax.jacrev(model.of_vectors))(vectors)  # [n, c, t, w]
    M = jax.vmap(dense.gauss_newton(case.terms[0].distribution))(jax.vmap(model)(x), y)
    G = jnp.einsum("ictv,icd,idtw->vw", J, M, J) / len(x)
    counts = np.bincount(np.ravel(clipped(x)), minlength=len(model.table.weight))
    return np.asarray(G), counts / x.size


def clipped(x):
    """The words that numbers stand for: from the end where negative, else the nearest."""
    return np.clip(np.where(x < 0, x + 6, x), 0, 5)


@pytest.mark.parametrize("approximation", slow_but(["expand"], ["expand", "reduce"]))
def test_the_factors_of_a_table_are_written_out(x64, approximation):
    """The order of the weights is the table's: word by word. *reduce* is the same."""
    case = cases.words("categorical")
    structure = functools.partial(cv.KFAC, approximation=approximation)
    plain, corrected = operators(case, [structure, cv.EKFAC])
    G, counts = written(case)
    assert distance(plain.as_matrix()[:12, :12], np.kron(np.diag(counts), G)) <= 1e-12
    # s = diag(Uᵀ C U), for C by the Jacobians of the whole model.
    J = case.terms[0].jacobians(case.model, case.trainable)[..., :12]
    x, y = case.batch
    M = jax.vmap(dense.gauss_newton(case.terms[0].distribution))(jax.vmap(case.model)(x), y)
    C = dense.pullback(1 / len(x), np.asarray(J), np.asarray(M)).reshape(6, 2, 6, 2)
    U, s = corrected.blocks[0].left, corrected.blocks[0].values
    assert distance(s, np.einsum("po,vpvq,qo->ov", U, C, U)) <= 1e-12


def test_the_kind_of_a_table_is_said():
    case = cases.words("categorical")
    of = cv.KFAC(cv.GaussNewton())
    said = []

    def made(model, batch):
        said.append(of.operator(case.objective.linearise(model, batch)).describe())

    eqx.filter_eval_shape(made, case.model, case.batch)
    assert said == ["Kronecker factors with token counts: table; Kronecker factors: head"]


@pytest.mark.slow
@pytest.mark.parametrize("max_block", [1, 1024])
def test_a_table_in_two_terms_has_the_sum_of_two_products(x64, max_block):
    """By conjugate gradients, and by one matrix."""
    case, weights = cases.words("categorical"), (0.3, 2.0)
    x, y = case.batch
    halves = [(x[:3], y[:3]), (x[3:], y[3:])]
    likelihood = cases.library("categorical")
    terms = {
        name: cv.Term(lambda model, x, key: model(x), likelihood, weight=weight)
        for name, weight in zip("ab", weights, strict=True)
    }
    objective = cv.Objective(terms=terms)
    together = replace(case, objective=objective, batch=dict(zip("ab", halves, strict=True)))
    (found,) = operators(together, [functools.partial(cv.KFAC, max_block=max_block)])
    expected = 0
    for weight, batch in zip(weights, halves, strict=True):
        G, counts = written(replace(case, batch=batch))
        expected = expected + weight * np.kron(np.diag(counts), G)
    matrix = found.as_matrix()
    assert distance(matrix[:12, :12], expected) <= 1e-12
    inverse = found.inverse(jnp.asarray(1e-2)).as_matrix()
    assert distance(inverse, np.linalg.inv(matrix + 1e-2 * np.eye(len(matrix)))) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("structure", [cv.KFAC, cv.EKFAC, cv.BlockDiagonal, cv.Diagonal])
def test_a_scan_over_tables_and_a_loop_have_the_same_blocks(x64, structure):
    stacked = made("deep_tables_of_one")
    tables = stacked.model.layers[0]
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], tables) for i in range(2)]

    def loop(a, b, x):
        z = x
        for one in (a, b):
            z = jnp.tanh(z * one(words(x)[0]))
        return z

    (of_scan,), (of_loop,) = (operators(one, [structure]) for one in (stacked, case(loop, *each)))
    assert distance(of_scan.as_matrix(), of_loop.as_matrix()) <= 1e-12


@pytest.mark.parametrize("structure", slow_but([cv.KFAC], [cv.KFAC, cv.EKFAC]))
@pytest.mark.parametrize("name", slow_but([], ["embedding_of_one", "grouped_at_one_position"]))
def test_one_example_at_one_position_is_exact(x64, structure, name):
    """The blocks of a convolution in groups are those of its groups."""
    one = made(name)
    x, y = one.batch
    one = replace(one, batch=(x[:1], y[:1]))
    found, exact = operators(one, [structure, cv.BlockDiagonal], of=cv.EmpiricalFisher())
    found, exact = np.asarray(found.as_matrix()), np.asarray(exact.as_matrix())
    assert distance(found, np.where(found == 0, 0, exact)) <= 1e-12
    assert np.isclose(np.trace(found), np.trace(exact), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", LAYERS)
def test_as_an_operator(x64, name, structure):
    (operator,) = operators(made(name), [structure])
    laws.check_operator(operator)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_the_correction_brings_it_nearer_to_the_blocks(x64, name):
    found = operators(made(name), [cv.KFAC, cv.EKFAC, cv.BlockDiagonal])
    plain, corrected, exact = (np.asarray(operator.as_matrix()) for operator in found)
    bound = np.linalg.norm(plain - exact) * (1 + 1e-10)
    assert np.linalg.norm(corrected - exact) <= bound
