from ._base import (
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractLikelihood as AbstractLikelihood,
    AbstractLoss as AbstractLoss,
    Coefficients as Coefficients,
    Unmasked as Unmasked,
)
from ._factors import (
    AbstractFactor as AbstractFactor,
    DiagonalFactor as DiagonalFactor,
    MaskedFactor as MaskedFactor,
    square_mv as square_mv,
)
from ._metric import Metric as Metric
from .bernoulli import Bernoulli as Bernoulli
from .categorical import Categorical as Categorical
from .gaussian import Gaussian as Gaussian
from .masked import Masked as Masked
from .policy_gradient import PolicyGradient as PolicyGradient
