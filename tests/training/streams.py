"""The digits as streams of every kind, in the batches that a run takes of them in memory."""

import importlib.util
from pathlib import Path

import jax
import numpy as np

from data import Dataset, Rows, Stream, batch_indices

KINDS = ["rows", "iterable", "placed"]
if importlib.util.find_spec("grain") is not None:
    KINDS.append("grain")


class Batches:
    """Yields the batches of another epoch each time that it is iterated over.

    The first time is that in which a run looks at the shapes.
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
    """Yields the batches of all epochs, and keeps its place."""

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
    """For `grain`: the examples of all epochs by their numbers."""

    def __init__(self, part, seed, batch_size, epochs):
        self.part = part
        orders = [batch_indices(seed, epoch, len(part[0]), batch_size) for epoch in range(epochs)]
        self.order = np.concatenate(orders).ravel()

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return tuple(leaf[self.order[index]] for leaf in self.part)


def mapped(part, folder: Path) -> Rows:
    """A part in files, memory-mapped."""
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
    """`dataset` as a stream of a kind, whose batches are those of a run with it."""

    def train():
        if kind == "rows":
            return mapped(dataset.train, folder)
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
