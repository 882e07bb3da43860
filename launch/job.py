"""One training run as plain values: nothing is built yet."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from training import CHANGEABLE, CONFIG, is_restart

from .errors import ConfigError
from .stored import check_names
from .unused import OPTIONAL, ROOTS, is_used, used_paths

AUTO = "auto"
"""The value of `micro_batch` for which the program chooses one that fits the device memory."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to train, and the folder for the results.

    **Arguments:**

    - `config`: the resolved configuration, as in the run folder's `config.yaml`. Its entry
        `choices` maps each group that the run uses to the chosen option.
    - `folder`: the run folder.
    - `resume`: whether to continue the run that is in the folder.
    - `overrides`: those of the command, `key=value`; of a sweep, with the values of this job.
    """

    config: dict[str, Any]
    folder: Path
    resume: bool
    overrides: Sequence[str] = ()

    @property
    def chooses_micro_batch(self) -> bool:
        """Whether the micro-batch is still to be chosen; `with_micro_batch` then sets it."""
        return self.config.get("micro_batch") == AUTO  # earlier versions have no such key

    def with_micro_batch(self, micro_batch: int | None) -> "Job":
        """The job with a micro-batch in place of `auto`."""
        return dataclasses.replace(self, config=_with_micro_batch(self.config, micro_batch))

    @property
    def label(self) -> str:
        """The name of the curvature and its structure, or of an optimiser without curvature."""
        choices = self.config["choices"]
        label = choices.get("curvature", choices["optimiser"])
        if (structure := choices.get("structure", "full")) != "full":
            label = f"{label} {structure}"
        if (preconditioner := choices.get("preconditioner", "none")) != "none":
            label = f"{label} preconditioned by {preconditioner}"
        return label


def current_job(config: DictConfig) -> Job:
    """The job that Hydra is running now; `config` is the argument of the task function."""
    hydra = HydraConfig.get()
    return _job(config, hydra, Path(hydra.runtime.output_dir))


def planned_job(composed: DictConfig, *, multirun: bool) -> Job:
    """The job that Hydra will run for `composed`, a configuration with its `hydra` node."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(composed)  # for interpolations such as `${hydra:job.num}`
    try:
        if multirun:
            folder = Path(composed.hydra.sweep.dir) / str(composed.hydra.sweep.subdir)
        else:
            folder = Path(composed.hydra.run.dir)
        config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        return _job(config, composed.hydra, folder)
    finally:
        hydra.cfg = before


def _job(config: DictConfig, hydra: HydraConf, folder: Path) -> Job:
    if config.get("resume") is not None:
        return _stored_job(config, hydra, folder)
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"`{error.full_key}` has no value: {reason}.") from error
    plain = cast(dict[str, Any], container)
    for name in ROOTS:
        if name not in plain and name not in OPTIONAL:
            raise ConfigError(f"`{name}` is missing in the configuration. Do not delete it.")
    paths = used_paths(config)
    choices = {
        group: option
        for group, option in hydra.runtime.choices.items()
        if option is not None and is_used(group, paths)
    }
    plain["choices"] = choices
    job = Job(plain, folder, resume=False, overrides=list(hydra.overrides.task))
    return _restarted(job) if is_restart(folder) else job


def _restarted(job: Job) -> Job:
    """The job of a scheduler's restart: it continues the run in its folder.

    If the configuration of that run differs, `job` is returned unchanged.
    """
    stored = yaml.safe_load((job.folder / CONFIG).read_text(encoding="utf-8"))
    same = job
    if job.chooses_micro_batch and "micro_batch" in stored:  # chosen at the first start
        same = job.with_micro_batch(stored["micro_batch"])
    return dataclasses.replace(same, resume=True) if same.config == stored else job


def _with_micro_batch(node: Any, micro_batch: int | None) -> Any:
    if isinstance(node, list):
        return [_with_micro_batch(each, micro_batch) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: micro_batch
        if key == "micro_batch" and value == AUTO
        else _with_micro_batch(value, micro_batch)
        for key, value in node.items()
    }


def _stored_job(config: DictConfig, hydra: HydraConf, folder: Path) -> Job:
    """The job of the folder named by `resume=`, with the configuration stored there."""
    if Path(str(config.resume)).resolve() != folder.resolve():
        raise ConfigError(
            f"`resume={config.resume}` continues the run in that folder. Leave out the other "
            f"folder, `{folder}`, and run one job at a time."
        )
    file = folder / CONFIG
    if not folder.is_dir():
        raise ConfigError(f"`resume=` must be the folder of a run, got `{folder}`: no such folder.")
    if not file.is_file():
        raise ConfigError(f"`resume=` must be the folder of a run, got `{folder}`: no {CONFIG}.")
    stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or "choices" not in stored:
        raise ConfigError(
            f"`{file}` is not the configuration of a run, so the run cannot be resumed."
        )
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        key = override.key_or_group
        if key not in CHANGEABLE:
            raise ConfigError(
                f"`{override.input_line}` cannot be changed when a run is resumed; only "
                f"{', '.join(f'`{name}`' for name in CHANGEABLE[1:])} can."
            )
        if key != "resume":
            stored[key] = config[key]
    sources = (Path(source.path) for source in hydra.runtime.config_sources)
    check_names(stored, file, [path.resolve() for path in sources if path.is_absolute()])
    return Job(stored, folder, resume=True, overrides=list(hydra.overrides.task))
