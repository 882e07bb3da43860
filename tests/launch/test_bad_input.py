"""Bad input gets one clear sentence and exit code 2, without a traceback, and makes no files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.selection import slow_but

ROOT = Path(__file__).parents[2]

# The arguments of a command, and texts that its error message must contain.
TABLE = {
    # an option that does not exist
    "curvature=nope": ["`curvature=nope`", "empirical_fisher", "true_fisher"],
    "curvature=gaus_newton": ["did you mean `curvature=gauss_newton`?"],
    "experiment=nope": ["digits_convnet"],
    "hydra/launcher=nope": ["basic"],
    "damping=0.01": ["constant, levenberg_marquardt", "`damping.value=0.01`"],
    "solver=3": ["`solver=3`", "cholesky"],
    "-m curvature=identity,nope": ["`curvature=nope`"],
    "structure=nope": ["`structure=nope`", "diagonal", "full", "low_rank"],
    # a key that does not exist
    "sampels=5": ["`sampels`", "did you mean `samples`?"],
    "curvatur=identity": ["did you mean `curvature`?"],
    "damping.valu=1": ["did you mean `damping.value`?"],
    "damping=levenberg_marquardt damping.value=1": [
        "`damping.value` is not a key of `damping=levenberg_marquardt`",
        "choose `damping=constant`",
    ],
    "dataset.path=x.npz": ["`dataset=digits`", "`dataset=arrays` or `dataset=csv`"],
    "zzz.yyy=1": ["`zzz.yyy`", "--help"],
    "+curvature.foo=3": ["`curvature.foo`", "curvature.SampledFisher"],
    "structure=diagonal +structure.foo=3": ["`structure.foo`", "`curvature.Diagonal`"],
    "structure=diagonal +curvature.foo=3": ["`curvature.foo`", "`curvature.SampledFisher`"],
    "+model.foo=3": ["`model.foo`", "models.MLP"],
    "+optimiser.foo=3": ["`optimiser.foo`"],
    "average.decay=0.9": ["`average.decay`"],
    "average=uniform optimiser=adam +optimiser.transformation.foo=3": [
        "`optimiser.transformation.foo` is not an argument of `optax.adam`"
    ],
    "optimiser=proximal +optimiser.minimiser.foo=3": ["`optimiser.minimiser.foo`", "LBFGS"],
    # a value of the wrong type or out of range
    "samples=0": ["SampledFisher(samples=...)", "got 0"],
    "samples=2.5": ["positive integer", "got 2.5"],
    "damping.value=-1": ["ConstantDamping(value=...)", "got -1"],
    "damping.value=abc": ["ConstantDamping(value=...)", "got abc"],
    "batch_size=0": ["`batch_size`", "got 0"],
    "micro_batch=0": ["`micro_batch=...` must be a positive integer, got 0"],
    "batch_size=1438": ["1437", "got 1438"],
    "batch_size=true": ["`batch_size`", "got True"],
    "experiment=poisson2d batch_size=64": ["`batch_size` must be null", "`poisson2d`", "got 64"],
    "evaluate_every=0": ["`evaluate_every`", "got 0"],
    "epochs=0": ["`epochs`"],
    "max_steps=1.5": ["`max_steps`"],
    "seed=-1": ["`seed`"],
    "x64=5": ["`x64` must be true or false, got 5"],
    "debug=maybe": ["`debug` must be true or false"],
    "model.width=0": ["MLP(width=...)"],
    "structure=diagonal structure.decay=1": ["Diagonal(decay=...)", "got 1"],
    "structure=low_rank structure.rank=9999": ["LowRank(rank=...)", "got 9,999"],
    "search.slope=2": ["BacktrackingArmijo(slope=...)"],
    "solver=cg solver.rtol=2": ["CG(rtol=...)", "got 2"],
    "solver=cg solver.rtol=abc": ["rtol", "abc"],
    "solver=sample_space solver.max_rows=0": ["SampleSpace(max_rows=...)", "got 0"],
    "average=exponential average.decay=1": ["Averaged(decay=...)", "got 1"],
    "average=exponential average.decay=abc": ["Averaged(decay=...)", "got abc"],
    "optimiser=proximal optimiser.strength=0": ["ProximalPoint(strength=...)", "got 0"],
    "likelihood=gaussian likelihood.variance=0": ["Gaussian(variance=...)"],
    "seed=???": ["`seed`"],
    "seed=${nope}": ["`seed`", "nope"],
    "~seed": ["`seed`"],
    "~curvature": ["curvature"],
    "curvature._target_=nope.Mine": ["`curvature`: `nope.Mine` cannot be imported: ", "nope"],
    "-m seed=0,1,0": ["The jobs #0 and #2 of the sweep are equal, `seed=0`"],
    "-m seed=shuffle(range(0,3))": ["`seed=shuffle(range(0,3))`", "List the values"],
    "-m damping.value=1,-1": ["The job `damping.value=-1`", "got -1"],
    # parts that do not fit
    "model.output_size=7": ["7 outputs", "from 0 to 9"],
    "likelihood=gaussian": ["(10,)"],
    "model=convnet dataset=diabetes likelihood=gaussian": ["ConvNet(input_shape=...)"],
    "model.input_shape=[3]": ["`digits`", "(8, 8)"],
    "objective=joint": ["reconstruction"],
    "dataset=poisson2d likelihood=gaussian batch_size=null": ["A batch of `Supervised`"],
    "experiment=cartpole batch_size=null": ["`OnPolicy(time_steps=...)`", "got None"],
    "dataset=mnist10k": ["t10k-images-idx3-ubyte.gz"],
    "dataset=text dataset.path=nope.txt": ["`text(path=...)`", "nope.txt`: No such file"],
    "dataset=text dataset.context=0": ["`text(context=...)`", "got 0"],
    "dataset=text dataset.context=9999": ["`text(context=9999)`", "smaller `context`"],
    "dataset=arrays": ["`arrays(path=...)`", "got None: set `dataset.path`"],
    "dataset=arrays dataset.path=nope.npz": ["`arrays(path=...)`", "nope.npz`: no such file"],
    "dataset=csv dataset.path=nope.csv dataset.target=y": ["`csv(path=...)`", "no such file"],
    "model=decoder": ["`TransformerDecoder(input_shape=...)`", "got (8, 8)"],
    "model=decoder dataset=wine": ["`wine`", "(13,)", "integer"],
    "model=decoder dataset=text model.output_size=9": ["9 outputs", "from 0 to"],
    "curvature=identity structure=diagonal": ["Diagonal(of=...)", "`Identity`", "`structure=full`"],
    "curvature=averaged structure=diagonal": ["Diagonal(of=...)", "`MovingAverage`"],
    "curvature=identity preconditioner=diagonal": ["Diagonal(of=...)", "`preconditioner=none`"],
    "preconditioner=diagonal solver=sample_space": ["does not take a preconditioner"],
    "solver=structured": ["Structured()", "`structure=diagonal`", "`solver=auto`"],
    # more than a solver takes
    "curvature=exact_fisher solver=sample_space solver.max_rows=99": [
        "1,152 rows (128 examples × 9)"
    ],
    "solver=sample_space solver.max_memory=1e-4": ["GiB", "smaller batch", "`solver=cg`"],
    # an override that nothing uses
    "curvature=gauss_newton samples=5": ["`samples=5`", "`curvature=gauss_newton`"],
    "optimiser=adam preconditioner=diagonal": ["`preconditioner=diagonal`", "`optimiser=adam`"],
    "optimiser=adam structure=diagonal": ["`structure=diagonal`", "`optimiser=adam`"],
    "optimiser=adam curvature=true_fisher": ["`curvature=true_fisher`", "`optimiser=adam`"],
    "-m curvature=identity,true_fisher samples=1,5": ["`samples=1,5`", "`curvature=identity`"],
    "+foo=1": ["`+foo=1`"],
    # arguments that cannot be parsed
    "seed": ["`seed`", "`key=value`"],
    "seed=[": ["`seed=[`"],
    "curvature=identity,true_fisher": ["add `-m`"],
    "seed=range(0,3)": ["add `-m`"],
    "--nope": ["--nope"],
    "--config-dir nope": ["`--config-dir`", "nope"],
    "--config-name nope": ["nope"],
    # folders
    "hydra.run.dir=/dev/null": ["/dev/null", "is a file"],
    "hydra.run.dir=/dev/null/run": ["/dev/null/run"],
    "resume=nope": ["nope", "no such folder"],
    "resume=.": ["config.yaml"],
    "-m resume=. seed=0,1": ["one job at a time"],
    # launchers
    "-m seed=0,1 hydra/launcher=parallel hydra.launcher.n_jobs=0": ["n_jobs", "got 0"],
    "-m seed=0,1 hydra/launcher=parallel hydra.launcher.jobs=2": ["hydra.launcher.jobs"],
    "-m seed=0,1 hydra/launcher=slurm hydra.launcher.nodes=2": ["give each job 2 processes"],
    "-m seed=0,1 hydra/launcher=slurm": ["`sbatch`", "`hydra/launcher=local`"],
}

QUICK = {
    *("curvature=gaus_newton", "damping=0.01"),
    *("sampels=5", "+curvature.foo=3"),
    *("samples=0", "damping.value=abc", "~seed"),
    *("model.output_size=7", "dataset=mnist10k", "dataset=text dataset.path=nope.txt"),
    "curvature=exact_fisher solver=sample_space solver.max_rows=99",
    *("curvature=gauss_newton samples=5", "seed=[", "--nope"),
    *("hydra.run.dir=/dev/null", "resume=nope"),
    "-m seed=0,1 hydra/launcher=slurm",
}

# One process for all rows. In pytest's own process the type checker would report errors first.
SCRIPT = """
import contextlib, io, json, os, sys
from launch.launcher import launch
from launch.request import read
from running import ExitCode
refusals = {}
for arguments in json.load(sys.stdin):
    sys.argv[1:] = arguments.split()
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = read(sys.argv[1:])
        if not isinstance(code, ExitCode):
            code = launch(code)
    refusals[arguments] = code, err.getvalue(), os.listdir()
print(json.dumps(refusals))
"""


def _python(*command, cwd, **kwargs):
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False, **kwargs
    )


@pytest.fixture(scope="module")
def refusals(tmp_path_factory, request):
    """For every row that is tested: the exit code, stderr, and the files left in the folder."""
    tests = [test for test in request.session.items if test.originalname == "test_bad_input"]
    rows = [test.callspec.params["arguments"] for test in tests]
    # Files with a wrong content, so that the error is the same with and without a network.
    data = tmp_path_factory.mktemp("data")
    (data / "mnist").mkdir()
    for part in ("images-idx3", "labels-idx1"):
        (data / "mnist" / f"t10k-{part}-ubyte.gz").write_text("not a dataset")
    environment = {"CURVATURE_DATA": str(data), "PYTHONPATH": str(ROOT)}
    folder = tmp_path_factory.mktemp("empty")
    done = _python("-c", SCRIPT, cwd=folder, env=environment, input=json.dumps(rows))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", slow_but(QUICK, TABLE))
def test_bad_input(arguments, refusals):
    code, err, made = refusals[arguments]
    assert code == 2
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert err.strip()
    assert not made
    for text in TABLE[arguments]:
        assert text in err


def test_bad_input_from_a_shell(tmp_path):
    done = _python(str(ROOT / "train.py"), "-m", "seed=0,1", "dampin=0.01", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(train):
    done = train("batch_size=0", "debug=true")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("`batch_size` must be")
    assert not done.made


def test_a_folder_that_holds_a_run_is_refused(train, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    done = train(f"hydra.run.dir={tmp_path}")
    assert done.code == 2
    assert f"`resume={tmp_path}`" in done.err
    assert done.made == [tmp_path / "metrics.jsonl"]


def test_a_sweep_folder_that_holds_a_run_is_refused(train, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").write_text("")
    cheap = "optimiser=sgd", "model=linear"
    done = train("-m", "seed=0,1", *cheap, f"hydra.sweep.dir={tmp_path}")
    assert done.code == 2
    assert "The job `seed=1 " in done.err
    assert done.made == [tmp_path / "1", tmp_path / "1" / "metrics.jsonl"]
