from collections.abc import Callable

from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from ..divergences import bind
from ..likelihoods import AbstractLoss
from ._base import AbstractPullback, output_hessian, symmetric_root


class Divergence(AbstractPullback):
    """M_i = ∇²_{z'} ρ(z_i, z') at z' = z_i, by autodiff, for a divergence ρ of two outputs; r = c.

    `rho(z, z2)` returns a scalar. It must be twice differentiable in `z2`, and smallest at
    `z2 = z`. `KL`, `SquaredEuclidean` and `SquaredHellinger` are such functions; you can also write
    your own. S is the symmetric square root of M_i, with negative eigenvalues clipped to 0. It
    holds c × c numbers per example.
    """

    rho: Callable[[Array, Array], Scalar]

    def __check_init__(self):
        if isinstance(self.rho, type) or not callable(self.rho):
            got = f"the class `{self.rho.__name__}`" if isinstance(self.rho, type) else self.rho
            raise ValueError(
                "`Divergence(rho=...)` must be a function of two outputs, such as `KL()`, got "
                f"{got}. For a class, pass an instance."
            )

    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "c c"]:
        del y, key
        rho = bind(self.rho, likelihood)
        return symmetric_root(output_hessian(lambda z2: rho(z, z2), z))
