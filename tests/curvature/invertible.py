"""A structure with a dense matrix and a dense damped inverse, as a simple preconditioner."""

import jax.numpy as jnp

import curvature as cv
from curvature.operators import AbstractInvertibleOperator, DenseOperator, solved_by_product


class Dense(AbstractInvertibleOperator):
    """A dense matrix on the trainable weights, with its damped inverse."""

    of: DenseOperator

    def mv(self, vector):
        return self.of.mv(vector)

    def as_matrix(self):
        return self.of.as_matrix()

    def diagonal(self):
        return self.of.diagonal()

    def in_structure(self):
        return self.of.in_structure()

    def inverse(self, damping):
        matrix = self.as_matrix()
        eye = jnp.eye(len(matrix), dtype=matrix.dtype)
        inverse = jnp.linalg.inv(matrix + damping.astype(matrix.dtype) * eye)
        return DenseOperator((inverse + inverse.T) / 2, self.in_structure())

    def solve(self, b, damping):
        return solved_by_product(self.mv, damping, b, self.inverse(damping).mv(b))

    def describe(self):
        return "dense: all weights"


class Whole(cv.AbstractCurvature):
    """The whole matrix of another curvature, or its diagonal; the state counts the updates."""

    of: cv.AbstractCurvature
    diagonal: bool = False

    def operator(self, linearisation, *, key=None):
        operator = self.of.operator(linearisation, key=key)
        matrix = jnp.diag(operator.diagonal()) if self.diagonal else operator.as_matrix()
        return Dense(DenseOperator(matrix, operator.in_structure()))

    def init(self, linearisation):
        if linearisation is None:
            raise ValueError("`Whole` has a state: pass a batch.")
        return jnp.zeros((), jnp.int32)

    def update(self, linearisation, state, *, key=None):
        return self.operator(linearisation, key=key), state + 1
