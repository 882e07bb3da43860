"""`train.py` accepts the settings of all methods of all experiments."""

import pytest

from experiments import characters, policy_gradient, structures, zoo
from experiments.autoencoder import deep, methods as autoencoder, problem
from experiments.harness.method import Method
from experiments.harness.optimisers import first_order
from experiments.physics import layers, methods as physics
from experiments.tutorial_mnist import methods as tutorial
from launch.command import parse
from launch.composer import Composer
from launch.folders import register_resolvers
from launch.job import planned_job
from launch.request import Request, read
from launch.runs import build


def commands():
    """The overrides of the problem and the method, for some settings of every method.

    See `settings_of`: between the first and the last of a grid, settings differ only in numbers.
    """
    pairs = [
        (characters.OVERRIDES, method) for method in (*characters.rivals(), *characters.ours())
    ]
    for overrides, batch_size, steps in structures.PROBLEMS.values():
        methods = (*structures.rivals(steps), *structures.ours(steps, batch_size))
        pairs += [((*overrides, f"batch_size={batch_size}"), method) for method in methods]
    pairs += [((), method) for method in (*policy_gradient.NATURAL, *policy_gradient.PLAIN)]
    for overrides in zoo.MODELS.values():
        pairs += [(overrides, zoo.method(curvature)) for curvature in zoo.CURVATURES]
    pairs += [(problem.SMALL.overrides, method) for method in autoencoder.METHODS]
    pairs += [(problem.DEEP.overrides, method) for method in deep.METHODS]
    small = (*tutorial.IN_SMALL, *tutorial.DEFAULTS, tutorial.WRONG)
    pairs += [(tutorial.SMALL.overrides, method) for method in small]
    pairs += [(tutorial.LARGE.overrides, method) for method in tutorial.IN_LARGE]
    for name in physics.EXPERIMENTS:
        methods = (physics.gauss_newton(name), physics.FRESH, physics.adam(name, 10, 1))
        pairs += [((f"experiment={name}",), method) for method in methods]
    for name, method in layers.METHODS.items():
        pairs.append(((f"experiment={name}", *layers.NET), method))
    for overrides, method in pairs:
        for setting in settings_of(method):
            yield [*overrides, *method.overrides(**setting)]


def settings_of(method: Method):
    first, last = method.grid[0], method.grid[-1]
    yield from (first, *(first | choice for choice in method.choices))
    if last != first:
        yield last
    if method.scheduled:
        yield first | {"until": 100}


def test_first_order_methods_have_the_constants_on_the_pages():
    register_resolvers("launch")

    def transformation(name):
        command = first_order(name)(0.5, until=100)
        return Composer(parse([])).compose([*command]).optimiser.transformation

    assert transformation("sgd").momentum is None
    assert transformation("muon").adam_learning_rate is None
    for name in ("sgd", "adam", "adamw", "muon", "soap", "shampoo"):
        assert transformation(name).learning_rate.peak_value == 0.5


@pytest.mark.slow
def test_the_settings_of_all_methods_are_accepted():
    register_resolvers("launch")
    count = 0
    for overrides in commands():
        # The image datasets may not be downloaded; the shapes of the digits are enough here.
        images = any("mnist" in each or each == "experiment=autoencoder" for each in overrides)
        command = [*overrides, *(["dataset=digits"] if images else []), "seed=1"]
        request = read(["-q", *command])
        assert isinstance(request, Request), command
        (composed,) = request.composition.jobs
        build(planned_job(composed, multirun=False), shapes_only=True)
        count += 1
    assert count > 150
