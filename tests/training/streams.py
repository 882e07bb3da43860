"""Streams of every kind over a dataset; each yields the batches of a run on the dataset itself."""

import importlib.util
from pathlib import Path

import jax
import numpy as np

from data import Dataset, Rows, Stream, batch_indices

KINDS = ["rows", "iterable", "placed"]
if importlib.util.find_spec("grain") is not None:
    KINDS.append("grain")


class Batches:
    """An iterable: each iteration over it yields the batches of the next epoch.

    The first iteration, which a run uses for the shapes, and the second both yield epoch 0.
    """

    def __init__(self, part, seed, batch_size):
        self.part, self.seed, self.batch_size, self.epoch = part, seed, batch_size, -2

    def __len__(self):
        return len(self.part[0]) // self.batch_size

    def __iter__(self):
        self.epoch += 1
        for rows in batch_indices(
            self.seed, max(self.epoch, 0), len(self.part[0]), self.batch_size
        ):
            yield [leaf[rows] for leaf in self.part]


class Placed:
    """An iterator over the batches of all epochs, which can restore its position."""

    def __init__(self, part, seed, batch_size):
        self.part, self.seed, self.batch_size, self.step = part, seed, batch_size, 0

    def __iter__(self):
        return self

    def __next__(self):
        n = len(self.part[0])
        epoch, number = divmod(self.step, n // self.batch_size)
        self.step += 1
        rows = batch_indices(self.seed, epoch, n, self.batch_size)[number]
        return tuple(leaf[rows] for leaf in self.part)

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


class Random:
    """For `grain`: random access to the examples of all epochs, in the order of a run."""

    def __init__(self, part, seed, batch_size, epochs):
        self.part = part
        orders = [batch_indices(seed, epoch, len(part[0]), batch_size) for epoch in range(epochs)]
        self.order = np.concatenate(orders).ravel()

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return tuple(leaf[self.order[index]] for leaf in self.part)


def memory_mapped(part, folder: Path) -> Rows:
    """The arrays of a part as memory-mapped files, which are written first if they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves, treedef = jax.tree.flatten(part)
    for index, leaf in enumerate(leaves):
        if not (folder / f"{index}.npy").exists():
            np.save(folder / f"{index}.npy", leaf)
    return Rows(
        treedef.unflatten(
            [np.load(folder / f"{index}.npy", mmap_mode="r") for index in range(len(leaves))]
        )
    )


def stream_of(dataset: Dataset, kind: str, seed: int, batch_size: int, folder: Path) -> Stream:
    """`dataset` as a stream of one of `KINDS`; a run gets the same batches as from `dataset`."""

    def train():
        if kind == "rows":
            return memory_mapped(dataset.train, folder)
        if kind == "iterable":
            return Batches(dataset.train, seed, batch_size)
        if kind == "placed":
            return Placed(dataset.train, seed, batch_size)
        import grain

        examples = Random(dataset.train, seed, batch_size, epochs=4)
        return grain.MapDataset.source(examples).to_iter_dataset().batch(batch_size)

    return Stream(
        dataset.name,
        train(),
        dataset.test,
        dataset.input_shape,
        dataset.output_size,
        validation=dataset.validation,
    )
