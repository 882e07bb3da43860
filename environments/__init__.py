"""Environments in JAX, and the batches of time steps that a policy generates in them."""

from ._base import AbstractEnvironment as AbstractEnvironment
from .cartpole import CartPole as CartPole
from .on_policy import OnPolicy as OnPolicy
