"""The row of a model and a curvature in the table of `zoo`."""

import json
import math

from experiments.zoo import row


def test_a_loss_that_is_not_finite_is_infinite_and_worse(tmp_path):
    runs = []
    for number, (before, after) in enumerate([(2.0, 1.0), (2.0, None), (2.0, 3.0)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(json.dumps({"loss": before}))
        (folder / "summary.json").write_text(json.dumps({"train_loss": after, "rejected": 1}))
        runs.append(folder)
    found = row("mlp", "identity", runs)
    assert (found["loss before"], found["loss after"], found["worst"]) == (2.0, 3.0, math.inf)
    assert (found["rejected steps"], found["worse than before"]) == (3, 2)
