"""A labelled dataset arranged for two terms: reconstruction and classification of the input."""

import dataclasses

from ._base import Dataset, DatasetError


def joint(dataset: Dataset) -> Dataset:
    """The same examples as `{"reconstruction": (x, x), "label": (x, y)}`.

    **Raises:** `DatasetError` if the parts of `dataset` are not `(inputs, targets)`, for example
    because `dataset` is arranged for several terms already.
    """

    def arrange(part):
        inputs, targets = part
        return {"reconstruction": (inputs, inputs), "label": (inputs, targets)}

    if not isinstance(dataset.train, tuple):
        raise DatasetError(
            "`joint(dataset)` takes a dataset whose parts are pairs `(inputs, targets)`, got "
            f"the dataset `{dataset.name}`, whose parts have the terms {sorted(dataset.train)}."
        )
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}_joint",
        train=arrange(dataset.train),
        test=arrange(dataset.test),
        validation=None if dataset.validation is None else arrange(dataset.validation),
    )
