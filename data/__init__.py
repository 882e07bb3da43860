"""Datasets: arrays or streams of batches, with the sizes that a model needs."""

from ._base import Dataset as Dataset, DatasetError as DatasetError
from .arrays import arrays as arrays
from .batches import batch_indices as batch_indices
from .breast_cancer import breast_cancer as breast_cancer
from .diabetes import diabetes as diabetes
from .digits import digits as digits
from .fashion_mnist import fashion_mnist as fashion_mnist
from .heat import heat as heat
from .joint import joint as joint
from .mnist import mnist as mnist
from .mnist10k import mnist10k as mnist10k
from .parts import first_of as first_of, held_out as held_out
from .passes import Drawn as Drawn, passes as passes
from .poisson import poisson2d as poisson2d, poisson5d as poisson5d
from .redrawn import Redrawn as Redrawn
from .rows import Rows as Rows
from .scaling import Scaling as Scaling
from .stream import (
    KeepsPlace as KeepsPlace,
    Stream as Stream,
    StreamPart as StreamPart,
    batches_of as batches_of,
)
from .table import csv as csv
from .text import text as text
from .wine import wine as wine
