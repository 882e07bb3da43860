import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder as training does; `config` and `summary` replace some of their entries.

    An `unfinished` run has no summary.
    """

    def write(
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        losses: tuple[float | None, ...] = (2.0, 1.0, 0.5),
        summary: Mapping[str, Any] | None = None,
        unfinished: bool = False,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {"seed": 0, "choices": {"curvature": "identity"}} | dict(config or {})
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        records = [
            {
                "step": step,
                "seconds": 10.0 + step,
                "gradient_equivalents": 3.0 * step,
                "loss": loss,
                "damping": 0.1,
                "solver_steps": 4,
                "reduction_ratio": None,
            }
            for step, loss in enumerate(losses, 1)
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(lines)
        if not unfinished:
            found = {
                "status": "finished",
                "curvature": config["choices"].get("curvature", "adam"),
                "steps": len(losses),
                "compile_seconds": 10.5,
                "train_loss": losses[-1],
                "test": {"accuracy": 0.5},
            }
            (folder / "summary.json").write_text(json.dumps(found | dict(summary or {})))
        return folder

    return write
