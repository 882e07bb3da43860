"""Second-order training in JAX, where the curvature is the thing you swap."""

from . import (
    backends as backends,
    damping as damping,
    likelihoods as likelihoods,
    searches as searches,
    solvers as solvers,
)
from .backends import (
    AbstractCoveringPullback as AbstractCoveringPullback,
    AbstractCurvature as AbstractCurvature,
    AbstractPullback as AbstractPullback,
    Divergence as Divergence,
    EmpiricalFisher as EmpiricalFisher,
    ExactFisher as ExactFisher,
    GaussNewton as GaussNewton,
    Identity as Identity,
    SampledFisher as SampledFisher,
)
from .damping import (
    AbstractDamping as AbstractDamping,
    ConstantDamping as ConstantDamping,
    LevenbergMarquardt as LevenbergMarquardt,
)
from .divergences import (
    KL as KL,
    SquaredEuclidean as SquaredEuclidean,
    SquaredHellinger as SquaredHellinger,
)
from .likelihoods import (
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractLikelihood as AbstractLikelihood,
    AbstractLoss as AbstractLoss,
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Coefficients as Coefficients,
    Gaussian as Gaussian,
    PolicyGradient as PolicyGradient,
)
from .linearisation import Linearisation as Linearisation
from .objective import (
    AbstractObjective as AbstractObjective,
    Autoencoding as Autoencoding,
    Objective as Objective,
    Supervised as Supervised,
    Term as Term,
)
from .operators import damped as damped
from .optimisers import (
    RESULTS as RESULTS,
    AbstractOptimiser as AbstractOptimiser,
    FirstOrder as FirstOrder,
    Info as Info,
    NaturalGradient as NaturalGradient,
)
from .searches import KLTrustRegion as KLTrustRegion
from .solvers import CG as CG, Auto as Auto, Plan as Plan, SampleSpace as SampleSpace
