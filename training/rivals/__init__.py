"""Optimisers of others, as optax transformations for `curvature.FirstOrder`: baselines to beat.

Optax has Muon and L-BFGS. SOAP and Shampoo are implemented here: there was no release of SOAP for
JAX, and the release of Shampoo (`optax-shampoo` 0.0.6, 2022) needs `jax.tree_map`, which JAX has
removed.
"""

from .muon import matrix_axes as matrix_axes
from .shampoo import shampoo as shampoo
from .soap import soap as soap
