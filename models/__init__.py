"""Equinox models: `Model(input_shape, output_size, ..., key=key)`, called on one example."""

from .autoencoder import Autoencoder as Autoencoder
from .classifying_autoencoder import (
    ClassifyingAutoencoder as ClassifyingAutoencoder,
    classify as classify,
    reconstruct as reconstruct,
)
from .convnet import ConvNet as ConvNet
from .mlp import MLP as MLP
from .transformer import TransformerEncoder as TransformerEncoder
