import importlib.util
from pathlib import Path


def sklearn_datasets() -> Path:
    """The folder of scikit-learn in which the files of its bundled datasets lie.

    It is looked up without importing scikit-learn, because that takes longer than all else
    together that a run with kept programs does before its first step.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None, "scikit-learn is a requirement"
    assert package.origin is not None
    return Path(package.origin).parent / "datasets"
