"""Second-order training in JAX, where the curvature is the thing you swap."""

from . import (
    _compiler as _compiler,  # before anything is compiled
    curvatures as curvatures,
    damping as damping,
    likelihoods as likelihoods,
    momentum as momentum,
    searches as searches,
    solvers as solvers,
)
from .curvatures import (
    EKFAC as EKFAC,
    KFAC as KFAC,
    AbstractCoveringPullback as AbstractCoveringPullback,
    AbstractCurvature as AbstractCurvature,
    AbstractPullback as AbstractPullback,
    AbstractStructure as AbstractStructure,
    BlockDiagonal as BlockDiagonal,
    Diagonal as Diagonal,
    Divergence as Divergence,
    EmpiricalFisher as EmpiricalFisher,
    ExactFisher as ExactFisher,
    FirstExamples as FirstExamples,
    GaussNewton as GaussNewton,
    Identity as Identity,
    LowRank as LowRank,
    MovingAverage as MovingAverage,
    OwnDamping as OwnDamping,
    SampledFisher as SampledFisher,
)
from .damping import (
    AbstractDamping as AbstractDamping,
    ConstantDamping as ConstantDamping,
    LevenbergMarquardt as LevenbergMarquardt,
    ScheduledDamping as ScheduledDamping,
)
from .divergences import (
    KL as KL,
    SquaredEuclidean as SquaredEuclidean,
    SquaredHellinger as SquaredHellinger,
)
from .likelihoods import (
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractFactor as AbstractFactor,
    AbstractLikelihood as AbstractLikelihood,
    AbstractLoss as AbstractLoss,
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Coefficients as Coefficients,
    Gaussian as Gaussian,
    Masked as Masked,
    Metric as Metric,
    PolicyGradient as PolicyGradient,
)
from .linearisation import (
    AbstractLinearisation as AbstractLinearisation,
    Linearisation as Linearisation,
)
from .momentum import (
    AbstractMomentum as AbstractMomentum,
    NoMomentum as NoMomentum,
    QuadraticMomentum as QuadraticMomentum,
    Spring as Spring,
    WarmStart as WarmStart,
)
from .objective import (
    AbstractObjective as AbstractObjective,
    Autoencoding as Autoencoding,
    Objective as Objective,
    Supervised as Supervised,
    Term as Term,
)
from .operators import (
    AbstractInvertibleOperator as AbstractInvertibleOperator,
    AbstractPositiveOperator as AbstractPositiveOperator,
    DampedOperator as DampedOperator,
    damped as damped,
)
from .optimisers import (
    RESULTS as RESULTS,
    AbstractEvaluatedElsewhere as AbstractEvaluatedElsewhere,
    AbstractOptimiser as AbstractOptimiser,
    Averaged as Averaged,
    FirstOrder as FirstOrder,
    Info as Info,
    Minimiser as Minimiser,
    NaturalGradient as NaturalGradient,
    ProximalPoint as ProximalPoint,
    evaluated as evaluated,
    scale_by_curvature as scale_by_curvature,
)
from .searches import KLTrustRegion as KLTrustRegion, ScheduledLearningRate as ScheduledLearningRate
from .solvers import (
    CG as CG,
    Auto as Auto,
    Plan as Plan,
    Preconditioned as Preconditioned,
    SampleSpace as SampleSpace,
    Structured as Structured,
)

__version__ = "0.1.0"
