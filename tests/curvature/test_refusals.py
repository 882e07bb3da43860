"""Invalid settings raise an error whose sentence has the form of the call."""

import functools
import re

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest

import curvature as cv

pytestmark = pytest.mark.usefixtures("as_installed")

NAN, INF = float("nan"), float("inf")
OBJECTIVE = cv.Supervised(cv.Gaussian())
SGD = cv.FirstOrder(OBJECTIVE, optax.sgd(0.3))
POSITIVE, NOT_NEGATIVE = "must be a positive finite number", "must be a finite number ≥ 0"
INTEGER, FUNCTION = "must be a positive integer", "must be a function"
IDENTITY = lx.IdentityLinearOperator(jax.ShapeDtypeStruct((2,), jnp.float32))
TERM = functools.partial(cv.Term, lambda model, x: model(x), cv.Gaussian())

# The function, the argument, invalid values of the argument, and the start of the error sentence.
ARGUMENTS = [
    (cv.CG, "max_steps", (0, 2.5, True), INTEGER),
    (cv.CG, "rtol", (-1e-3, 1.0, NAN), "must lie in [0, 1)"),
    (cv.CG, "progress", (0.0, NAN), "must lie in (0, 1) or be None"),
    (cv.SampleSpace, "max_rows", (0, -1, True), INTEGER),
    (cv.SampleSpace, "max_memory", (0.0, -1.0, NAN), POSITIVE),
    (functools.partial(cv.damped, IDENTITY), "damping", (-1.0, NAN, INF), NOT_NEGATIVE),
    (cv.ConstantDamping, "value", (-1.0, -1e-30, NAN, INF, -INF, np.ones(3)), NOT_NEGATIVE),
    (cv.LevenbergMarquardt, "initial", (0.0, -1.0, NAN), POSITIVE),
    (cv.LevenbergMarquardt, "minimum", (0.0,), POSITIVE),
    (cv.LevenbergMarquardt, "maximum", (INF,), POSITIVE),
    (cv.ScheduledDamping, "schedule", (1e-3,), FUNCTION),
    (cv.ScheduledLearningRate, "schedule", (1e-3,), FUNCTION),
    (cv.KLTrustRegion, "delta", (0.0, -1.0), POSITIVE),
    (cv.KLTrustRegion, "decrease_factor", (0.0,), POSITIVE),
    (cv.KLTrustRegion, "decrease_factor", (1.0,), "must be less than 1"),
    (cv.KLTrustRegion, "model_minimum", (1, "no"), "must be true or false"),
    (cv.Spring, "decay", (1 - 1e-9,), "must lie in [0, 1)"),
    (cv.Spring, "decay", (1.0, 1.5, -0.1, NAN, np.ones(2)), "must"),
    (cv.WarmStart, "decay", (1.5, -0.1, NAN, np.ones(2)), "must"),
    (functools.partial(cv.NaturalGradient, OBJECTIVE), "max_search_steps", (0, 2.5), INTEGER),
    (functools.partial(cv.ProximalPoint, OBJECTIVE), "strength", (0.0,), POSITIVE),
    (functools.partial(cv.ProximalPoint, OBJECTIVE), "max_steps", (0,), INTEGER),
    (functools.partial(cv.Minimiser, SGD, 1e-3, 1e-3), "max_rejections", (0,), INTEGER),
    (functools.partial(cv.Averaged, SGD), "decay", (0.0, 1.0, 1, -0.1, NAN, "0.9"), "must"),
    (functools.partial(cv.MovingAverage, cv.GaussNewton()), "decay", (0.0, 1.0, -0.1, NAN), "must"),
    (functools.partial(cv.Diagonal, cv.GaussNewton()), "decay", (1.0, -0.1, NAN), "must"),
    (
        functools.partial(cv.LowRank, cv.GaussNewton()),
        *("rank", (0, -1, 2.5, True), INTEGER),
    ),
    (
        functools.partial(cv.FirstExamples, cv.GaussNewton()),
        *("examples", (0, -1, 2.5, True), INTEGER),
    ),
    (cv.SampledFisher, "samples", (0, -1, 2.5, 1.0, True, "2", None), INTEGER),
    (cv.Gaussian, "variance", (0.0, -1.0, NAN, INF), POSITIVE),
    (cv.Categorical, "smoothing", (-0.1, 1.0, NAN, "a"), "must"),
    (TERM, "weight", (-1.0, NAN, INF), NOT_NEGATIVE),
    (cv.Objective, "terms", ({}, {"a": cv.Categorical()}, {"a": None}), "must be a dictionary"),
]


def named(make, argument):
    function = make.func if isinstance(make, functools.partial) else make
    return f"{function.__name__}({argument}=...)"


IDS = [named(make, argument) for make, argument, *_ in ARGUMENTS]


@pytest.mark.parametrize(("make", "argument", "values", "said"), ARGUMENTS, ids=IDS)
def test_a_bad_setting_is_refused(make, argument, values, said):
    for value in values:
        got = f"got {value}" if isinstance(value, int | float) else "got "
        sentence = re.escape(f"`{named(make, argument)}` {said}") + ".*" + re.escape(got)
        with pytest.raises(ValueError, match=sentence):
            make(**{argument: value})


BOUNDS = r"`LevenbergMarquardt\(.*\)` must satisfy minimum ≤ initial ≤ maximum"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: cv.LevenbergMarquardt(1.0, minimum=2.0), BOUNDS),
        (lambda: cv.LevenbergMarquardt(1.0, maximum=0.5), BOUNDS),
        (
            lambda: cv.ScheduledDamping(lambda step: 0.0).init(jnp.ones(2)),
            r"`ScheduledDamping\(schedule=...\)\(0\)` must be a pos",
        ),
        (lambda: cv.NaturalGradient(OBJECTIVE, damping=-1.0), "finite number ≥ 0, got -1.0"),
        (lambda: cv.NaturalGradient(OBJECTIVE, damping=NAN), "finite number ≥ 0, got nan"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("l2", [-0.1, NAN, INF, np.ones(2), "0.1"])
def test_a_bad_penalty_is_refused_by_every_objective(l2):
    for make in (
        functools.partial(cv.Supervised, cv.Categorical()),
        functools.partial(cv.Autoencoding, cv.Bernoulli()),
        functools.partial(cv.Objective, {"a": TERM()}),
    ):
        with pytest.raises(ValueError, match=r"`l2=...` must be a finite number ≥ 0, got"):
            make(l2=l2)


# --- objects of a wrong kind -------------------------------------------------------------------

NATURAL = functools.partial(cv.NaturalGradient, OBJECTIVE)
OUTPUTS = functools.partial(cv.Term, lambda model, x: model(x))
PARTS = [
    (NATURAL, "curvature", cv.GaussNewton, "a curvature"),
    (NATURAL, "solver", cv.CG, "a solver"),
    (NATURAL, "damping", cv.LevenbergMarquardt, "a number, or a damping"),
    (NATURAL, "search", optx.BacktrackingArmijo, "an optimistix search"),
    (NATURAL, "momentum", cv.Spring, "a momentum"),
    (functools.partial(NATURAL, solver=cv.CG()), "preconditioner", cv.KFAC, "a curvature"),
    (cv.NaturalGradient, "objective", cv.Supervised, "an objective"),
    (functools.partial(cv.FirstOrder, transformation=optax.sgd(0.1)), "objective", None, "an obj"),
    (functools.partial(cv.FirstOrder, OBJECTIVE), "transformation", None, "an optax transf"),
    (cv.ProximalPoint, "objective", cv.Supervised, "an objective"),
    (cv.Supervised, "likelihood", cv.Categorical, "a likelihood"),
    (cv.Autoencoding, "likelihood", cv.Bernoulli, "a likelihood"),
    (OUTPUTS, "likelihood", cv.Gaussian, "a likelihood"),
    (functools.partial(cv.FirstExamples, examples=3), "of", cv.GaussNewton, "a curvature"),
    (functools.partial(cv.OwnDamping, damping=0.1), "of", cv.GaussNewton, "a curvature"),
    (cv.MovingAverage, "of", cv.GaussNewton, "a curvature"),
    (functools.partial(cv.damped, damping=0.1), "operator", None, "a lineax operator"),
]


@pytest.mark.parametrize(("make", "name", "kind", "wanted"), PARTS)
def test_an_object_of_a_wrong_kind_is_refused(make, name, kind, wanted):
    with pytest.raises(ValueError, match=rf"{name}=\.\.\.\)?` must be {wanted}.*, got 'name'"):
        make(**{name: "name"})
    if kind is not None:
        sentence = rf"got the class `{kind.__name__}`\. Pass an instance: `{kind.__name__}\("
        with pytest.raises(ValueError, match=sentence):
            make(**{name: kind})


def test_the_error_says_what_to_do_instead():
    with pytest.raises(ValueError, match=r"Wrap it in an objective: `Supervised\(Categorical"):
        cv.NaturalGradient(cv.Categorical())
    with pytest.raises(
        ValueError, match=r"got the function `l2_loss`\. For a loss of your own, subclass"
    ):
        cv.Supervised(optax.l2_loss)
    with pytest.raises(ValueError, match=r"got 0\.1\. For a fixed step size s, use `opt"):
        NATURAL(search=0.1)
    with pytest.raises(ValueError, match=r"`Divergence\(rho=...\)` must be a function of two"):
        cv.Divergence("kl")
    with pytest.raises(ValueError, match=r"must be a dictionary with at least one `Term`"):
        cv.Objective([TERM()])
