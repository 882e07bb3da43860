"""Optimisers of others, as optax transformations for `curvature.FirstOrder`: baselines to beat.

Optax has Muon and L-BFGS. There was no release of SOAP for JAX, and that of Shampoo
(`optax-shampoo` 0.0.6, 2022) needs `jax.tree_map`, which JAX has removed; hence these.
"""

from .muon import matrix_axes as matrix_axes
from .shampoo import shampoo as shampoo
from .soap import soap as soap
