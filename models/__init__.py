"""Equinox models, `Model(input_shape, output_size, ..., key=key)`, called on one example.

The package also has functions `(model, x) -> z` for the `outputs` of an objective's terms.
"""

from .autoencoder import Autoencoder as Autoencoder
from .classifying_autoencoder import (
    ClassifyingAutoencoder as ClassifyingAutoencoder,
    classify as classify,
    reconstruct as reconstruct,
)
from .convnet import ConvNet as ConvNet
from .decoder import TransformerDecoder as TransformerDecoder
from .differential import (
    heat_operator as heat_operator,
    negative_laplacian as negative_laplacian,
    value as value,
)
from .mlp import MLP as MLP
from .transformer import TransformerEncoder as TransformerEncoder
