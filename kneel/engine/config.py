"""Experiments: YAML files read into frozen, validated pydantic models."""

import difflib
import json
import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """An experiment file that cannot be used; one line with file, key, value and what would be valid."""


class Settings(BaseModel):
    """Base of every settings model: frozen, no unknown keys, no silent conversion (``true`` is not 1, nor ``"1"``).

    Attributes
    ----------
    own_keys
        Keys that no file takes over from its base in silence: it must say them itself where its base does.
    """

    own_keys: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class TrainingConfig(Settings):
    """How to train, whatever is trained; every field changes what :func:`kneel.engine.fit.fit` does.

    Attributes
    ----------
    epochs
        Passes over the training set.
    batch_size
        Samples per optimizer step, over all processes together: the same experiment on any number of devices.
    optimizer, learning_rate, weight_decay, momentum
        ``adam`` (decay added to the gradient), ``adamw`` (decoupled decay) or ``sgd``; `momentum` is for ``sgd``.
    schedule, milestones, gamma, warmup_epochs
        ``step``: the rate is multiplied by `gamma` when as many epochs as each of `milestones` are over.
        ``cosine``: half a cosine that would reach 0 one step after the last. Either may rise linearly over
        `warmup_epochs` first.
    swa_start, swa_frequency, swa_learning_rate
        Stochastic weight averaging: from the end of epoch `swa_start` + `swa_frequency` on, the weights after every
        `swa_frequency` epochs are averaged, and what is judged and kept as the best is the average, its batch norms
        measured anew. `swa_learning_rate` replaces the schedule once `swa_start` epochs are over; None goes on with it.
    precision
        ``off`` (float32), ``bf16``, ``fp16`` with loss scaling (CUDA only), or ``auto``: ``bf16`` where the device
        computes in it, else ``off``; the log says which. ``float64`` is for comparing machines: rounding does not
        grow to anything within some epochs, as it does in float32.
    clip_norm
        Largest 2-norm of the whole gradient, or None.
    monitor, mode
        The validation metric that chooses the best epoch, and whether ``min`` or ``max`` of it is best.
    seed
        With the epoch and the number of the sample or the step it decides every random draw.
    num_workers
        Loader processes of each training process; 0 loads in the training process. Changes nothing but the speed.
    augment_on
        Where training pictures are augmented, where the data set leaves that open, as landmarks and knees to be graded
        do: by the ``loader``, a sample at a time, on the ``device``, a batch at a time (JPEG stays with the loader), or
        ``auto``: on a GPU, and else by the loader. The draws are the same; pictures differ by rounding, and on a GPU in
        the numbers of their noise.
    compile
        Whether training passes the network through ``torch.compile``; validation does not. Dropout draws other masks.
    threads
        CPU threads inside one operation, or None for torch's own choice.
    """

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(16, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = ()
    gamma: float = Field(0.1, gt=0, lt=1)
    warmup_epochs: int = Field(0, ge=0)
    swa_start: int | None = Field(None, ge=0)
    swa_frequency: int = Field(1, ge=1)
    swa_learning_rate: float | None = Field(None, gt=0)
    precision: Literal["auto", "off", "bf16", "fp16", "float64"] = "off"
    clip_norm: float | None = Field(None, gt=0)
    monitor: str = Field(min_length=1)
    mode: Literal["min", "max"]
    seed: int = Field(0, ge=0)
    num_workers: int = Field(0, ge=0)
    augment_on: Literal["auto", "loader", "device"] = "auto"
    compile: bool = False
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum = {self.momentum} acts only with optimizer sgd, not {self.optimizer}")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones = {list(self.milestones)} act only with schedule step, not {self.schedule}")
        if list(self.milestones) != sorted({m for m in self.milestones if 1 <= m < self.epochs}):
            allowed = f"must rise and lie between 1 and epochs - 1 = {self.epochs - 1}"
            raise ValueError(f"milestones = {list(self.milestones)} {allowed}")
        if not self.milestones and self.gamma != type(self).model_fields["gamma"].default:
            raise ValueError(f"gamma = {self.gamma} acts only with milestones, and there are none")
        if self.swa_start is None:
            for name, idle in (("swa_frequency", 1), ("swa_learning_rate", None)):
                if getattr(self, name) != idle:
                    raise ValueError(f"{name} = {getattr(self, name)} acts only with swa_start, and there is none")
        elif self.swa_start + self.swa_frequency > self.epochs:
            reach = f"swa_start + swa_frequency = {self.swa_start} + {self.swa_frequency}"
            raise ValueError(f"{reach}: nothing is averaged within epochs = {self.epochs}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} must be below epochs = {self.epochs}")
        return self


def load_config(path: Path | str, model: type[Model]) -> Model:
    """
    Read an experiment file into a settings model.

    The top-level key ``base: other.yaml`` (relative to the file, chains allowed) puts the file's own keys on top of
    another file's: mappings are merged key by key, anything else is replaced. Scalars follow YAML 1.2: ``off`` is a
    word, ``1e-3`` a number, and a key given twice is an error.

    Parameters
    ----------
    path
        The YAML file.
    model
        The pydantic model that it must fit.

    Returns
    -------
    Model
        The validated, frozen experiment.

    Raises
    ------
    ConfigError
        One line: the file, then every offending key with its value and what is allowed there; or a key of `own_keys`
        that a base gives, and the file does not.
    """
    chain = _read_chain(Path(path))
    _refuse_inherited(chain, model)
    merged: dict[str, Any] = {}
    for _, own in reversed(chain):
        merged = _merge(merged, own)
    try:
        # By way of JSON, because YAML has no tuples and strict python input would refuse lists for them.
        return model.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        problems = [_describe(problem, model, chain) for problem in error.errors(include_url=False)]
        raise ConfigError(f"{path}: {'; '.join(problems)}") from None
    except (ValueError, TypeError) as error:  # json.dumps: an alias inside itself, a mapping as a key
        raise ConfigError(f"{path}: {error}") from None


class _Yaml(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping of text keys; refuse a key that stands twice."""
        keys = [self.construct_scalar(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.MarkedYAMLError(None, None, f"key {', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, PyYAML's default, reads `off` as False and 1e-3 as a word: both would bite in an experiment.
_Yaml.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.inf|\.nan", list("-+.")),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _read_chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return (file, its own keys without ``base``), the file itself first, then its bases."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    seen: set[Path] = set()
    follow: Path | None = path
    while follow is not None:
        if follow.resolve() in seen:
            names = " -> ".join(str(file) for file, _ in chain)
            raise ConfigError(f"{path}: base: the files name each other: {names} -> {follow}")
        seen.add(follow.resolve())
        own = _read_yaml(follow)
        base = own.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise ConfigError(f"{follow}: base = {base!r}: must be the name of one file")
        chain.append((follow, own))
        follow = None if base is None else follow.parent / base
    return chain


def _refuse_inherited(chain: list[tuple[Path, dict[str, Any]]], model: type[BaseModel]) -> None:
    """Refuse a file that would take over a key which every file must say itself."""
    (path, own), *bases = chain
    for key in getattr(model, "own_keys", ()):
        file, value = next(((file, base[key]) for file, base in bases if key in base), (path, None))
        if key not in own and value is not None:
            shared = f"`{key}: {value}` here to share it, or `{key}: null`"
            raise ConfigError(f"{path}: {key} = {json.dumps(value)} (from {file}) is not taken over: write {shared}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 text file: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from None
    if not isinstance(data, dict):
        found = "the file is empty" if data is None else f"found {_one_line(repr(data))}"
        raise ConfigError(f"{path}: must hold `key: value` lines; {found}")
    return data


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` on top; mappings are merged, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _describe(problem: Any, model: type[BaseModel], chain: list[tuple[Path, dict[str, Any]]]) -> str:
    """Say in words what pydantic found: ``training.epochs = 0: must be greater than or equal to 1``."""
    loc, kind, value = problem["loc"], problem["type"], problem["input"]
    # A union adds its tag to the location; such a part is no key of the file. (A missing key is none either.)
    in_file = {depth for depth in range(len(loc)) if any(_holds(own, loc[: depth + 1]) for _, own in chain)}
    last = len(loc) - 1 if kind == "missing" else -1
    key = ".".join(str(part) for depth, part in enumerate(loc) if depth in in_file or depth == last)
    owner = next((file for file, own in chain if _holds(own, loc)), chain[0][0])
    origin = "" if owner == chain[0][0] else f" (from {owner})"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(loc[-1]), _names_at(model, loc[:-1]), n=1)
        return f"{key}: unknown key{f', did you mean {close[0]}?' if close else ''}{origin}"
    words = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if isinstance(value, dict) else f" = {_one_line(json.dumps(value))}"
    return f"{key}{shown}: {_one_line(words, 300)}{origin}".removeprefix(": ")


def _holds(data: Any, loc: tuple[int | str, ...]) -> bool:
    """Whether the raw data has the last part of this location, parts that are union tags left out."""
    for depth, part in enumerate(loc):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if depth == len(loc) - 1:
                return False
    return True


def _names_at(annotation: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Field names of every model that may stand at this location of the settings model."""
    models = _models_in(annotation)
    if not loc:
        return sorted({name for model in models for name in model.model_fields})
    inner = [model.model_fields[str(loc[0])].annotation for model in models if str(loc[0]) in model.model_fields]
    # A part that is no field is a union's tag or an index: stay at the same models.
    return sorted({name for each in inner or models for name in _names_at(each, loc[1:])})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _one_line(words: object, limit: int = 60) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
