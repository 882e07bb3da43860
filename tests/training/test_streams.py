"""A run on a stream has the results of the same data in memory, and faulty streams are refused."""

import os
import signal
import threading
from itertools import pairwise

import jax
import numpy as np
import pytest

from data import DatasetError, Rows, Stream, batch_indices
from tests.selection import slow_but
from tests.training.streams import KINDS, Batches, Placed, memory_mapped, stream_of
from training import AbstractRecorder, train
from training.prefetch import AHEAD, Prefetched

SEED, SIZE = 3, 256
"""The seed and the batch size of `make_run`."""


class Given:
    """Yields the given batches unchanged; raises those that are exceptions."""

    def __init__(self, *batches):
        self.batches, self.read = batches, 0

    def __iter__(self):
        for batch in self.batches:
            self.read += 1
            if isinstance(batch, Exception):
                raise batch
            yield batch


class Endless(Given):
    """Repeats the given batches without end."""

    def __iter__(self):
        while True:
            yield from Given.__iter__(self)


@pytest.fixture
def make_stream(dataset):
    def make(train, **parts) -> Stream:
        return Stream("own", train, parts.pop("test", dataset.test), (8, 8), 10, **parts)

    return make


@pytest.fixture
def batch(dataset):
    """The first `SIZE` training examples of the digits."""
    return jax.tree.map(lambda leaf: np.array(leaf[:SIZE]), dataset.train)


def prefetch_is_alive() -> bool:
    """Whether a prefetching thread still runs; waits up to a minute for each to end."""
    ours = [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    for thread in ours:
        thread.join(60)
    return any(thread.is_alive() for thread in ours)


@pytest.mark.parametrize("kind", slow_but(["rows", "iterable"], KINDS))
def test_a_stream_has_the_results_of_arrays_in_memory(
    kind, make_run, dataset, whole, read_records, tmp_path
):
    stream = stream_of(dataset, kind, SEED, SIZE, tmp_path / "files")
    summary = train(make_run(dataset=stream, max_steps=20), tmp_path / "run")
    assert summary["status"] == "finished"
    assert not prefetch_is_alive()
    assert (tmp_path / "run" / "model.eqx").read_bytes() == (whole / "model.eqx").read_bytes()
    found, expected = read_records(tmp_path / "run"), read_records(whole)
    for record in (*found, *expected):
        for cost in ("seconds", "processor_seconds", "gradient_equivalents"):
            del record[cost]  # with arrays in memory, it includes gathering the batch
        if kind in ("placed", "grain"):  # the length of an epoch is not known
            del record["epoch"]
    assert found == expected


def test_several_devices_share_the_batches(make_run, dataset, whole, read_records, tmp_path):
    stream = stream_of(dataset, "rows", SEED, SIZE, tmp_path / "files")
    train(make_run(dataset=stream, devices=4), tmp_path / "run")
    pairs = zip(read_records(tmp_path / "run"), read_records(whole), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


def test_a_resumed_run_continues_after_the_steps_taken(make_run, dataset, whole, tmp_path, capsys):
    """Batches that were only prefetched are not lost.

    A stream that cannot restore its position is read again from its beginning, with a warning.
    """
    for kind, warned in (("iterable", True), ("placed", False)):
        folder = tmp_path / kind
        for resume in (False, True):
            stream = stream_of(dataset, kind, SEED, SIZE, tmp_path / "files")
            steps = 20 if resume else 7
            train(make_run(dataset=stream, max_steps=steps, quiet=True), folder, resume=resume)
        assert (folder / "model.eqx").read_bytes() == (whole / "model.eqx").read_bytes()
        err = capsys.readouterr().err.replace("\n", " ")
        assert (
            "read again from its beginning to reach the saved position: 7 batches in" in err
        ) == warned


def test_an_epoch_of_unknown_length_is_one_pass(make_run, make_stream, batch, tmp_path):
    stream = make_stream(Given(batch, batch, batch))
    summary = train(make_run(dataset=stream, epochs=2, max_steps=100), tmp_path)
    assert (summary["status"], summary["steps"], summary["epochs"]) == ("finished", 6, 2)
    assert summary["best"]["step"] in (3, 6)
    assert summary["train_loss"] is None
    with pytest.raises(ValueError, match="`max_steps` must be set for the stream `own`"):
        train(make_run(dataset=make_stream(Given(batch))), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_short_last_batch_is_left_out(make_run, make_stream, batch, tmp_path, read_records):
    short = jax.tree.map(lambda leaf: leaf[:100], batch)
    stream = make_stream([batch, batch, short])
    summary = train(make_run(dataset=stream, epochs=2), tmp_path)
    assert (summary["steps"], summary["epochs"]) == (4, 2)
    assert [record["epoch"] for record in read_records(tmp_path)] == [1 / 3, 1, 4 / 3, 2]


def test_a_source_may_reuse_its_memory(make_run, make_stream, dataset, tmp_path, whole):
    class Reusing(Batches):
        def __iter__(self):
            held = None
            for batch in Batches.__iter__(self):
                held = batch if held is None else held
                for kept, leaf in zip(held, batch, strict=True):
                    kept[...] = leaf
                yield held

    stream = make_stream(Reusing(dataset.train, SEED, SIZE))
    train(make_run(dataset=stream), tmp_path)
    assert (tmp_path / "model.eqx").read_bytes() == (whole / "model.eqx").read_bytes()


class Tensor:
    """Like a tensor of PyTorch: not an array, but NumPy can convert it to one."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None):
        return self.array


def test_a_loader_may_yield_tensors(make_run, make_stream, dataset, tmp_path, whole):
    class Loader(Batches):
        def __iter__(self):
            for batch in Batches.__iter__(self):
                yield [Tensor(leaf) for leaf in batch]

    stream = make_stream(Loader(dataset.train, SEED, SIZE))
    train(make_run(dataset=stream), tmp_path)
    assert (tmp_path / "model.eqx").read_bytes() == (whole / "model.eqx").read_bytes()


@pytest.mark.usefixtures("x64")
def test_batches_are_in_the_precision_of_the_run(make_run, make_net, dataset, tmp_path):
    """`jax.enable_x64` as a context holds for one thread, so the prefetching thread must get it."""
    model = make_net(10)
    assert model.mlp.layers[0].weight.dtype == np.float64
    stream = stream_of(dataset, "rows", SEED, SIZE, tmp_path / "files")
    for name, of in (("memory", dataset), ("rows", stream)):
        train(make_run(model=model, dataset=of, epochs=1), tmp_path / name)
    models = [(tmp_path / name / "model.eqx").read_bytes() for name in ("memory", "rows")]
    assert models[0] == models[1]


def reshaped(batch):
    x, y = batch
    return {
        "short but not last": (x[:9], y[:9]),
        "longer": (np.concatenate([x, x]), np.concatenate([y, y])),
        "of another shape": (x[:, :4], y),
        "of another type": (x, y.astype(np.int64)),
        "of another structure": {"x": x, "y": y},
    }


@pytest.mark.parametrize("what", reshaped((np.zeros((9, 9)), np.zeros(9))))
def test_a_batch_of_another_shape_is_refused(what, make_run, make_stream, batch, tmp_path):
    stream = make_stream([batch, reshaped(batch)[what], batch])
    with pytest.raises(
        DatasetError, match=r"the stream `own` must .* \(float32\[256, 8, 8\], .* at batch [23] of"
    ):
        train(make_run(dataset=stream), tmp_path)
    assert not prefetch_is_alive()


def test_an_error_of_the_source_is_one_sentence(make_run, make_stream, batch, tmp_path):
    stream = make_stream(Given(batch, batch, OSError("the disk is gone")))
    said = "The stream `own` failed at batch 3 of pass 1: OSError: the disk is gone"
    with pytest.raises(DatasetError, match=said):
        train(make_run(dataset=stream, max_steps=9), tmp_path)
    assert not prefetch_is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_waits_for_its_source(
    number, make_run, make_stream, batch, tmp_path
):
    released = threading.Event()

    class Stuck(Endless):
        def __iter__(self):
            yield batch
            yield batch
            os.kill(os.getpid(), number)
            released.wait()

    try:
        run = make_run(dataset=make_stream(Stuck()), max_steps=9)
        summary = train(run, tmp_path)
    finally:
        released.set()
    assert summary["status"] == "interrupted"
    assert summary["steps"] <= 2
    resumed = make_run(dataset=make_stream(Endless(batch)), max_steps=9)
    assert train(resumed, tmp_path, resume=True)["status"] == "finished"


def test_only_a_few_batches_are_read_ahead(make_run, make_stream, batch, tmp_path):
    """Beside the batches of recorded steps and the `AHEAD` in the queue, at most four are read.

    These four are: one for the shapes, one for the step in flight, one that waits for room in the
    queue, and one that is held back until the next one is read.
    """
    source, leads = Endless(batch), []

    class Watch(AbstractRecorder):
        def begin(self, folder, config, steps):
            pass

        def end(self, summary):
            pass

        def record(self, record):
            leads.append(source.read - record["step"])

    train(make_run(dataset=make_stream(source), max_steps=9, recorders={"w": Watch()}), tmp_path)
    assert len(leads) == 9
    assert max(leads) <= AHEAD + 4


def test_prefetched_items_keep_their_order_and_the_thread_ends():
    never = lambda: False  # noqa: E731
    with Prefetched(iter(range(100))) as ahead:
        taken = [ahead.next(never) for _ in range(50)]
    assert taken == list(range(50))
    assert all(b - a == 1 for a, b in pairwise(taken))
    assert not prefetch_is_alive()
    with Prefetched(iter(())) as ahead:
        assert ahead.next(lambda: True) is None


class Stated(Placed):
    """An iterator whose state is the value of `kept`."""

    kept = None

    def get_state(self):
        return self.kept


def test_a_state_that_is_neither_json_nor_bytes_is_refused(make_stream, dataset):
    stated = Stated(dataset.train, SEED, SIZE)
    stated.kept = np.int64(3)
    with pytest.raises(DatasetError, match="`get_state` of the iterator of the stream `own` must"):
        make_stream(stated)


class InBytes(Placed):
    def get_state(self):
        return str(self.step).encode()

    def set_state(self, state):
        self.step = int(state.decode())


def test_a_state_may_be_bytes(make_run, make_stream, dataset, whole, tmp_path):
    for resume, steps in ((False, 7), (True, 20)):
        stream = make_stream(InBytes(dataset.train, SEED, SIZE))
        train(make_run(dataset=stream, max_steps=steps), tmp_path, resume=resume)
    assert (tmp_path / "model.eqx").read_bytes() == (whole / "model.eqx").read_bytes()


class Changed(Placed):
    """An iterator of a later version, which does not accept the states of the earlier one."""

    def set_state(self, state):
        if state["step"]:
            raise KeyError("place")


def test_a_state_that_is_not_accepted_is_one_sentence(make_run, make_stream, dataset, tmp_path):
    before, after = (make_stream(kind(dataset.train, SEED, SIZE)) for kind in (Placed, Changed))
    train(make_run(dataset=before, max_steps=2), tmp_path)
    said = "The stream `own` cannot continue from its saved position: KeyError: 'place'"
    with pytest.raises(DatasetError, match=said):
        train(make_run(dataset=after, max_steps=4), tmp_path, resume=True)


@pytest.mark.parametrize(("make", "kind"), [(iter, "list_iterator"), (map, "map")])
def test_a_source_that_can_be_read_only_once_is_refused(make, kind, make_stream, batch):
    with pytest.raises(
        DatasetError, match=rf"`Stream\(train=...\)` must start from the beginning .* `{kind}`"
    ):
        make_stream(make([batch]) if make is iter else make(tuple, [batch]))


def test_a_stream_whose_second_pass_is_empty_is_refused(make_run, make_stream, batch, tmp_path):
    class Once(Given):
        def __iter__(self):
            begun, self.times = getattr(self, "times", 0), getattr(self, "times", 0) + 1
            return iter(self.batches if begun < 2 else ())  # the first is for the shapes

    with pytest.raises(DatasetError, match="`own` has no whole batch in its pass 2"):
        train(make_run(dataset=make_stream(Once(batch)), max_steps=9), tmp_path)


@pytest.mark.parametrize(
    ("settings", "train_part", "said"),
    [
        ({"batch_size": 100}, "batches", "`batch_size` must be the number .* `own`, 256, or null"),
        ({"batch_size": None}, "rows", "`batch_size` must be a number for the dataset `own`"),
        ({"batch_size": 2000}, "rows", "at most the number of training examples, 1437, got 2000"),
        ({}, "empty", r"`Stream\(train=...\)` yields no batch in the stream `own`"),
        ({}, "text", "failed at batch 1: TypeError: a batch must consist of arrays of numbers"),
    ],
)
def test_unusable_streams_are_refused_before_the_run(
    settings, train_part, said, make_run, make_stream, dataset, batch, tmp_path
):
    source = {"batches": [batch], "rows": Rows(dataset.train), "empty": []}
    source = (source | {"text": [("a", "b")]})[train_part]
    with pytest.raises((ValueError, DatasetError), match=said):
        train(make_run(dataset=make_stream(source), **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_batch_size_a_step_takes_a_batch_of_the_stream(
    make_run, make_stream, batch, tmp_path
):
    run = make_run(dataset=make_stream([batch]), batch_size=None, epochs=2)
    assert train(run, tmp_path)["steps"] == 2


def test_a_subset_of_a_subset_has_the_chosen_rows(dataset, tmp_path):
    rows = memory_mapped(dataset.train, tmp_path).subset(np.arange(100, 0, -1))
    order = batch_indices(0, 0, 100, 10)[3]
    for found, expected in zip(rows.subset(order)[2:5], dataset.train, strict=True):
        np.testing.assert_array_equal(found, expected[100 - order[2:5]])
    assert len(rows.subset(order)) == 10
