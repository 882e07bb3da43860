from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Scalar

from ._base import AbstractLikelihood
from ._shapes import one_array


class PolicyGradient(AbstractLikelihood):
    """The policy-gradient loss of one time step: nll(z, (a, A)) = −A log π(a | z).

    `policy` is π, a likelihood whose targets are actions. A target is a pair (a, A) of the action
    taken and its advantage. The gradient of the mean over time steps is minus the policy gradient
    (Williams 1992).

    The distribution is that of the actions, so the Fisher is that of π, not weighted by the
    advantage (Kakade 2001, "A natural policy gradient"): the advantage is not a property of the
    policy. For the same reason, a target drawn by `sample` has A = 1.

    One example may contain several time steps. Then A has the leading axes of z, and the losses of
    the time steps add up.

        >>> import curvature as cv, jax.numpy as jnp
        >>> lik = cv.PolicyGradient(cv.Categorical())
        >>> round(float(lik.nll(jnp.zeros(2), (jnp.asarray(1), jnp.asarray(-2.0)))), 4)  # −2 log 2
        -1.3863
    """

    policy: AbstractLikelihood

    def nll(
        self, z: Float[Array, "*shape"], y: tuple[PyTree[Array], Float[Array, "*steps"]]
    ) -> Scalar:
        action, advantage = _pair(self, y)
        advantage = jnp.where(jnp.isfinite(advantage), advantage, jnp.nan).astype(z.dtype)
        nll = self.policy.nll
        for _ in range(advantage.ndim):
            nll = jax.vmap(nll)
        return jnp.sum(advantage * nll(z, action))

    def in_domain(self, z: Float[Array, "*shape"], y: tuple[PyTree, Array]) -> Bool[Array, ""]:
        action, advantage = _pair(self, y)
        return self.policy.in_domain(z, action) & jnp.all(jnp.isfinite(advantage))

    def domain(self, z_shape: tuple[int, ...], y: PyTree) -> str:
        return f"{self.policy.domain(z_shape, _pair(self, y)[0])} as actions, and finite advantages"

    def sample(
        self, z: Float[Array, "*shape"], *, key: PRNGKeyArray
    ) -> tuple[PyTree[Array], Float[Array, ""]]:
        return self.policy.sample(z, key=key), jnp.ones((), z.dtype)

    def fisher_factor(self, z: Float[Array, "*shape"]) -> lx.AbstractLinearOperator:
        return self.policy.fisher_factor(z)

    def kl(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return self.policy.kl(z, z2)

    def squared_hellinger(self, z: Float[Array, "*shape"], z2: Float[Array, "*shape"]) -> Scalar:
        return self.policy.squared_hellinger(z, z2)


def _pair(likelihood: object, y: Any) -> tuple[PyTree, Float[Array, "*steps"]]:
    if not isinstance(y, tuple | list) or len(y) != 2:
        raise ValueError(
            "`PolicyGradient(policy).nll(z, y)` takes a pair (action, advantage) as its target, "
            "as an environment returns, got one array."
        )
    return y[0], one_array(likelihood, y[1])
