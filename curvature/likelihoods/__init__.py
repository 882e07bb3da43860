from ._base import (
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractLikelihood as AbstractLikelihood,
    AbstractLoss as AbstractLoss,
    Coefficients as Coefficients,
)
from .bernoulli import Bernoulli as Bernoulli
from .categorical import Categorical as Categorical
from .gaussian import Gaussian as Gaussian
from .policy_gradient import PolicyGradient as PolicyGradient
