import importlib.util
from pathlib import Path


def sklearn_datasets() -> Path:
    """The folder in scikit-learn with the files of its bundled datasets.

    The function does not import scikit-learn. If compiled programs are cached, that import would
    take longer than everything else before the first step of a run.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None, "scikit-learn is a requirement"
    assert package.origin is not None
    return Path(package.origin).parent / "datasets"
