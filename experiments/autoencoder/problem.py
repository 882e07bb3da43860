"""The autoencoders that are trained."""

from experiments.harness.problem import Problem

COMMON = ("dataset=mnist10k", "likelihood=bernoulli", "objective=autoencoding", "batch_size=1000")
LEVELS = (90.0, 80.0, 70.0)

SMALL = Problem("autoencoder", (*COMMON, "model=autoencoder"))
"""That of `python train.py experiment=autoencoder`."""
DEEP = Problem(
    "autoencoder_deep",
    (
        *(*COMMON, "model=autoencoder", "model.sizes=[1000,500,250,30]"),
        "model.activation.path=jax.nn.relu",
    ),
)
"""The one for which others have published results of K-FAC."""
