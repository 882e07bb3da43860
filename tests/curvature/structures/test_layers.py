"""The structures for convolutions in groups and for tables that are looked up."""

import functools
import itertools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvature as cv
from tests.curvature import cases, dense
from tests.curvature.structures import laws
from tests.curvature.test_recognition import (
    LAYERS,
    case,
    case_named,
    channels,
    grouped,
    logits,
    words,
)
from tests.curvature.tools import distance, flat
from tests.selection import slow_but

STRUCTURES = [cv.KFAC, cv.EKFAC, cv.BlockDiagonal, cv.Diagonal]


def operators(case, structures, of=None):
    """The operators of the structures of one curvature, by default of Gauss–Newton."""
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

    @eqx.filter_jit
    def run(together, apart, batch):
        """The products of both operators with the same vector, leaf by leaf."""
        of_whole, of_halves = (
            structure(cv.GaussNewton()).operator(objective.linearise(model, batch))
            for model in (together, apart)
        )
        vector = jax.tree.map(jnp.sin, eqx.filter(apart, eqx.is_array))
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *vector.layers)
        whole = eqx.tree_at(lambda m: m.layers, vector, (joined,))
        return of_whole.mv(whole).layers[0], *of_halves.mv(vector).layers

    objective = together.objective
    products = map(jax.tree.leaves, run(together.model, apart.model, together.batch))
    for of_whole, *of_halves in zip(*products, strict=True):
        assert distance(of_whole, np.concatenate(of_halves)) <= 1e-12


@eqx.filter_jit
def factors(model, x, y):
    """G and the diagonal of A for the table of `cases.words`, by plain Jacobians.

    These are the factors of *expand*: Δ_it = ∂z_i/∂y_it for the vector y_it of word t. A negative
    word counts from the end of the table. A word that is still out of range is clipped.
    """
    x = jnp.clip(jnp.where(x < 0, x + 6, x), 0, 5)
    vectors = jnp.take(model.table.weight, x, axis=0)
    J = jax.vmap(jax.jacrev(model.of_vectors))(vectors)  # [n, c, t, w]
    M = jax.vmap(dense.gauss_newton(dense.Categorical()))(jax.vmap(model.of_vectors)(vectors), y)
    counts = jnp.sum(jax.nn.one_hot(x, 6, dtype=vectors.dtype), axis=(0, 1))
    return jnp.einsum("ictv,icd,idtw->vw", J, M, J) / len(x), counts / x.size


@pytest.mark.parametrize("approximation", slow_but(["expand"], ["expand", "reduce"]))
def test_the_factors_of_a_table_are_those_of_plain_jacobians(x64, approximation):
    """The weights are ordered word by word, as in the table. *reduce* has the same factors."""
    case, said = cases.words("categorical"), []

    @eqx.filter_jit
    def run(model, batch):
        here = case.objective.linearise(model, batch)
        operator = cv.KFAC(cv.GaussNewton(), approximation=approximation).operator(here)
        said.append(operator.describe())
        return operator.as_matrix()

    G, counts = factors(case.model, *case.batch)
    found = run(case.model, case.batch)[:12, :12]
    assert distance(found, np.kron(np.diag(counts), G)) <= 1e-12
    assert said == ["Kronecker factors with token counts: table; Kronecker factors: head"]


@pytest.mark.slow
def test_the_eigenvalues_of_ekfac_for_a_table_are_those_of_plain_jacobians(x64):
    """s = diag(Uᵀ C U), with C from the Jacobians of the whole model."""
    case = cases.words("categorical")
    (corrected,) = operators(case, [cv.EKFAC])
    J = case.terms[0].jacobians(case.model, case.trainable)[..., :12]
    x, y = case.batch
    M = jax.vmap(dense.gauss_newton(case.terms[0].distribution))(jax.vmap(case.model)(x), y)
    C = dense.pullback(1 / len(x), np.asarray(J), np.asarray(M)).reshape(6, 2, 6, 2)
    U, s = corrected.blocks[0].left, corrected.blocks[0].values
    assert distance(s, np.einsum("po,vpvq,qo->ov", U, C, U)) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("max_block", [1, 1024])
def test_a_table_in_two_terms_has_the_sum_of_two_products(x64, max_block):
    """`max_block` decides whether conjugate gradients or one dense matrix inverts the block."""
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
        G, counts = factors(case.model, *batch)
        expected = expected + weight * np.kron(np.diag(counts), G)
    matrix = laws.matrix_of(found)
    assert distance(matrix[:12, :12], expected) <= 1e-12
    inverse = laws.matrix_of(found.inverse(jnp.asarray(1e-2)))
    assert distance(inverse, np.linalg.inv(matrix + 1e-2 * np.eye(len(matrix)))) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("structure", [cv.KFAC, cv.EKFAC, cv.BlockDiagonal, cv.Diagonal])
def test_a_scan_over_tables_and_a_loop_have_the_same_blocks(x64, structure):
    stacked = case_named("deep_tables_of_one")
    tables = stacked.model.layers[0]
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], tables) for i in range(2)]

    def loop(a, b, x):
        z = x
        for one in (a, b):
            z = jnp.tanh(z * one(words(x)[0]))
        return z

    (of_scan,), (of_loop,) = (operators(one, [structure]) for one in (stacked, case(loop, *each)))
    assert distance(laws.matrix_of(of_scan), laws.matrix_of(of_loop)) <= 1e-12


@pytest.mark.parametrize("structure", slow_but([cv.KFAC], [cv.KFAC, cv.EKFAC]))
@pytest.mark.parametrize("name", slow_but([], ["embedding_of_one", "grouped_at_one_position"]))
def test_one_example_at_one_position_is_exact(x64, structure, name):
    """For a convolution in groups, the entries of the exact block between groups are left out."""
    one = case_named(name)
    x, y = one.batch
    one = replace(one, batch=(x[:1], y[:1]))
    found, exact = operators(one, [structure, cv.BlockDiagonal], of=cv.EmpiricalFisher())
    found, exact = (np.asarray(laws.matrix_of(operator)) for operator in (found, exact))
    assert distance(found, np.where(found == 0, 0, exact)) <= 1e-12
    assert np.isclose(np.trace(found), np.trace(exact), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "structure"),
    slow_but([("deep_and_grouped", cv.BlockDiagonal)], itertools.product(LAYERS, STRUCTURES)),
)
def test_products_and_inverses_are_those_of_its_matrix(x64, name, structure):
    (operator,) = operators(case_named(name), [structure])
    laws.check_operator(operator)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_ekfac_is_at_least_as_near_to_the_exact_blocks_as_kfac(x64, name):
    found = operators(case_named(name), [cv.KFAC, cv.EKFAC, cv.BlockDiagonal])
    plain, corrected, exact = (np.asarray(laws.matrix_of(operator)) for operator in found)
    bound = np.linalg.norm(plain - exact) * (1 + 1e-10)
    assert np.linalg.norm(corrected - exact) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("structure", [*STRUCTURES, functools.partial(cv.KFAC, damping="factored")])
@pytest.mark.parametrize("model", ["words", "depthwise"])
def test_as_a_preconditioner_it_changes_no_solution(x64, model, structure):
    """Two steps with the preconditioner are those of `SampleSpace`; the second one uses a state."""
    one, trained = cases.MODELS[model]("categorical"), []
    preconditioner = structure(cv.GaussNewton())
    for solver, preconditioned in (
        (cv.CG(rtol=1e-13, max_steps=200), preconditioner),
        (cv.SampleSpace(), None),
    ):
        opt = cv.NaturalGradient(
            one.objective, solver=solver, damping=0.1, preconditioner=preconditioned
        )
        net, state = one.model, opt.init(one.model, batch=one.batch)
        for _ in range(2):
            net, state, _ = opt.step(net, one.batch, state)
        trained.append(flat(net))
    np.testing.assert_allclose(*trained, rtol=1e-8)
