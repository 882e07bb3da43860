import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from ._base import AbstractLikelihood


class PolicyGradient(AbstractLikelihood):
    """The policy-gradient loss of one time step: nll(z, (a, A)) = −A log π(a | z).

    `policy` is π, a likelihood whose targets are actions; a target is a pair (a, A) of the action
    taken and its advantage. The gradient of the mean over time steps is minus the policy gradient
    (Williams 1992). The distribution is that of the actions, so that the Fisher is π's own: the
    advantage, which is no property of the policy, does not weigh it (Kakade 2001, "A natural
    policy gradient"). A target that is drawn has A = 1, for the same reason.

    >>> import curvature as cv, jax.numpy as jnp
    >>> lik = cv.PolicyGradient(cv.Categorical())
    >>> round(float(lik.nll(jnp.zeros(2), (jnp.asarray(1), jnp.asarray(-2.0)))), 4)  # −2 log 2
    -1.3863
    """

    policy: AbstractLikelihood

    def nll(self, z: Float[Array, "*shape"], y: tuple[PyTree[Array], Float[Array, ""]]) -> Scalar:
        if not isinstance(y, tuple | list) or len(y) != 2:
            raise ValueError(
                "`PolicyGradient(policy).nll(z, y)` takes a pair (action, advantage) as its "
                "target, as environments give: got one array."
            )
        action, advantage = y
        return advantage.astype(z.dtype) * self.policy.nll(z, action)

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
