import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Scalar

from ._factors import MaskedFactor
from ._metric import Metric
from ._targets import check_targets


class Coefficients(eqx.Module):
    """ρ with S ρ = ∇_z nll(z, y) for one example: the gradient as a combination of columns of S.

    - `values`: ρ.
    - `bounded`: whether ρ is bounded wherever the gradient is. If not, ρ may overflow, and the
      solver must handle that. Example: ρ grows like 1/√p if the target is an outcome to which the
      model gives a small probability p.
    """

    values: Float[Array, " r"]
    bounded: bool = eqx.field(static=True)


class AbstractLoss(eqx.Module):
    """A loss of one example's outputs, the minimum that a term of an objective needs.

    A loss that is not a likelihood works with every curvature that does not need the model's
    distribution: [`GaussNewton`][], [`EmpiricalFisher`][], and [`Divergence`][] of a divergence
    between outputs, such as [`SquaredEuclidean`][].

    Only `nll` must be implemented. The other methods have defaults: every target is in the domain,
    no number is reported beside the loss, and no output is masked.
    """

    @abc.abstractmethod
    def nll(self, z: Float[Array, "*shape"], y: PyTree[Array]) -> Scalar:
        """The loss of one example: −log p(y | z) up to a constant that depends on y alone.

        **Arguments:** `z`, the model's outputs for the example; `y`, its target.

        **Returns:** a scalar of the dtype of `z`.
        """

    def in_domain(self, z: Float[Array, "*shape"], y: PyTree[Array]) -> Bool[Array, ""]:
        """Whether `nll` is defined for the target `y` of one example.

        The method is traceable and uses only the shape of `z`. For every likelihood of this
        package, a target that is NaN is outside the domain.
        """
        del z, y
        return jnp.asarray(True)

    def domain(self, z_shape: tuple[int, ...], y: PyTree) -> str:
        """Describes the targets with `in_domain` true: the words after "needs" in an error."""
        del z_shape, y
        return "targets for which its `in_domain` is true"

    def check_targets(
        self, z_shape: tuple[int, ...], targets: PyTree, *, source: str = "this batch"
    ) -> None:
        """Raises unless every target is `in_domain`. It is called before a run starts.

        **Arguments:** `z_shape`, the shape of one example's outputs; `targets`, concrete arrays
        with a leading axis n; `source`, the origin of the targets, for the error sentence.

        **Raises:** `ValueError`, which names the first target outside the domain.
        """
        check_targets(self, z_shape, targets, source)

    def metrics(self) -> tuple[Metric, ...]:
        """The numbers to report for a term beside its loss."""
        return ()

    def unmasked(self, z: Float[Array, "*shape"], y: PyTree[Array]) -> "Unmasked":
        """Splits the example into a loss without a mask and the mask, for a curvature.

        See [`Unmasked`][]. Only a loss whose targets have a mask, such as [`Masked`][], overrides
        this method.
        """
        return Unmasked(self, z, y, None)


class Unmasked(NamedTuple):
    """One example, split into a loss without a mask and the mask.

    With f(z) = `likelihood.nll(z, y)` at `z`, and D = diag(`mask`), the loss of the example has
    the gradient D ∇f and the Hessian D ∇²f D. A metric M with factor S becomes D M D, with factor
    D S. Coefficients ρ with S ρ = ∇f stay as they are.

    - `likelihood`: the loss without a mask.
    - `z`, `y`: outputs and target, with finite numbers in the masked positions.
    - `mask`: True where an output counts, of the shape of `z`; None where all of them do.
    """

    likelihood: AbstractLoss
    z: Float[Array, "*shape"]
    y: PyTree[Array]
    mask: Bool[Array, "*shape"] | None

    def restrict(self, factor: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
        """D S, for a factor S of a metric on the outputs."""
        return factor if self.mask is None else MaskedFactor(factor, self.mask.ravel())


class AbstractLikelihood(AbstractLoss):
    r"""A distribution p(· | z) over targets, given the outputs `z` of *one* example.

    Symbols, here and in all that follows:

    | symbol | meaning |
    |---|---|
    | z | one example's outputs, any shape, c numbers when ravelled |
    | y, t | a target from the data; a target drawn from p(· \| z) |
    | S | a factor (c × r) of a matrix M = S Sᵀ on the outputs |
    """

    @abc.abstractmethod
    def sample(self, z: Float[Array, "*shape"], *, key: PRNGKeyArray) -> PyTree[Array]:
        """One target t ∼ p(· | z), of the shape and dtype that `nll(z, t)` takes."""

    @abc.abstractmethod
    def fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        """S with S Sᵀ = E_{t∼p(·|z)}[g gᵀ], g = ∇_z nll(z, t): the Fisher factor at z.

        **Returns:** a linear operator R^r → R^c between flat vectors.
        """

    @abc.abstractmethod
    def kl(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        """KL(p(· | z) ‖ p(· | z2)), in nats. Its Hessian in `z2` at `z2 = z` is the Fisher."""

    @abc.abstractmethod
    def squared_hellinger(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        """1 − ∫√(p(t|z) p(t|z2)) dt, in [0, 1]. Its Hessian in `z2` at `z2 = z` is Fisher/4."""


class AbstractExponentialFamily(AbstractLikelihood):
    """A likelihood whose outputs are natural parameters, or a constant multiple of them.

    Then ∇²_z nll(z, y) does not depend on y and equals the Fisher, so `fisher_factor` is also a
    factor of the Hessian (Martens 2020, "New insights and perspectives on the natural gradient
    method", section 9.2). The gradient lies in the range of `fisher_factor`.
    """

    @abc.abstractmethod
    def thin_fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        """S with the same S Sᵀ as `fisher_factor(z)`, and the fewest columns known to suffice.

        In a sample-space solve, every column of S adds one row per example.
        """

    @abc.abstractmethod
    def fisher_coefficients(self, z: Float[Array, "*shape"], y: PyTree[Array]) -> Coefficients:
        """ρ with S ρ = ∇_z nll(z, y), for the S of `thin_fisher_factor(z)`."""
