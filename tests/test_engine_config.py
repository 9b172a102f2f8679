from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from kneel.engine.config import ConfigError, Settings, TrainingConfig, load_config

GOOD = "training: {monitor: loss, mode: min}\n"


class Phantom(Settings):
    kind: Literal["phantom"]
    films: int


class Folder(Settings):
    kind: Literal["folder"]
    flip: bool = False


class Experiment(Settings):
    training: TrainingConfig
    data: Annotated[Phantom | Folder, Field(discriminator="kind")] = Folder(kind="folder")
    size_mm: tuple[float, float] = (140.0, 140.0)


def write(folder: Path, text: str, name: str = "experiment.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, Experiment)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_good_file_is_read(tmp_path):
    text = "training: {monitor: kappa, mode: max, learning_rate: 1e-3, precision: off, milestones: [50, 80]}\n"
    text += "size_mm: [140, 120]"
    experiment = load_config(write(tmp_path, text), Experiment)
    assert experiment.training.learning_rate == 0.001
    assert experiment.training.precision == "off"
    assert experiment.training.milestones == (50, 80)
    assert experiment.size_mm == (140.0, 120.0)
    with pytest.raises(ValidationError, match="frozen"):
        experiment.training.epochs = 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: -1", "training.learning_rate = -1: must be greater than 0"),
        ("learning_rate: .nan", "training.learning_rate = NaN: must be a finite number"),
        ("learning_rate: fast", 'training.learning_rate = "fast": must be a valid number'),
        ("learning_rate: 1:30", 'training.learning_rate = "1:30": must be a valid number'),
        ("epochs: 0", "training.epochs = 0: must be greater than or equal to 1"),
        ("epochs: true", "training.epochs = true: must be a valid integer"),
        ("epochs: 1.5", "training.epochs = 1.5: must be a valid integer"),
        ("epochs: 010", 'training.epochs = "010": must be a valid integer'),
        ("epochs: '3'", 'training.epochs = "3": must be a valid integer'),
        ("batch_size:", "training.batch_size = null: must be a valid integer"),
        ("optimizer: rmsprop", "training.optimizer = \"rmsprop\": must be 'adam', 'adamw' or 'sgd'"),
        ("precision: no", "training.precision = \"no\": must be 'auto', 'off', 'bf16', 'fp16' or 'float64'"),
        ("lerning_rate: 1", "training.lerning_rate: unknown key, did you mean learning_rate?"),
        ("optim: adam", "training.optim: unknown key, did you mean optimizer?"),
        ("zzz: 1", "training.zzz: unknown key"),
        ("momentum: .9", "training: momentum = 0.9 acts only with optimizer sgd, not adam"),
        ("gamma: .5", "training: gamma = 0.5 acts only with milestones, and there are none"),
        ("epochs: 9\n  milestones: [9]", "training: milestones = [9] must rise and lie between 1 and epochs - 1 = 8"),
        ("milestones: [8, 5]", "training: milestones = [8, 5] must rise and lie between 1 and epochs - 1 = 99"),
        (
            "schedule: cosine\n  milestones: [5]",
            "training: milestones = [5] act only with schedule step, not cosine",
        ),
        ("epochs: 3\n  warmup_epochs: 3", "training: warmup_epochs = 3 must be below epochs = 3"),
    ],
)
def test_a_refusal_names_key_value_and_what_is_valid(tmp_path, line, expected):
    path = write(tmp_path, f"training:\n  monitor: loss\n  mode: min\n  {line}\n")
    assert refusal(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must hold `key: value` lines; the file is empty"),
        ("- 1\n- 2\n", "must hold `key: value` lines; found [1, 2]"),
        ("training: {monitor: loss}", "training.mode: missing"),
        ("training: 3", "training = 3: must be an object"),
        (GOOD + "data: {kind: phantom}", "data.films: missing"),
        (GOOD + "data: {kind: phantom, film: 3}", "data.films: missing; data.film: unknown key, did you mean films?"),
        (GOOD + "data: {kind: folder, flip: 'false'}", 'data.flip = "false": must be a valid boolean'),
        (GOOD + "data: {kind: folder, flip: 0}", "data.flip = 0: must be a valid boolean"),
        (GOOD + "size_mm: [140, wide]", 'size_mm.1 = "wide": must be a valid number'),
        (GOOD + "trainin: 3", "trainin: unknown key, did you mean training?"),
        (GOOD + GOOD, "line 1: key training given twice"),
        ("training: {monitor: a, monitor: b}", "line 1: key monitor given twice"),
        ("training: [1\n", "line 2: expected ',' or ']', but got '<stream end>'"),
        ("training: !!python/name:os.system x", "line 1: could not determine a constructor"),
        ("training: &a [*a]", "Circular reference detected"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, expected):
    assert refusal(write(tmp_path, text)).startswith(expected)


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert refusal(tmp_path / "absent.yaml") == "cannot be read: No such file or directory"
    assert refusal(tmp_path).startswith("cannot be read: Is a directory")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert refusal(tmp_path / "binary.yaml").startswith("not a UTF-8 text file")
    assert refusal(write(tmp_path, "a: \x07")).startswith("not YAML: unacceptable character")


def test_base_is_merged_below(tmp_path):
    write(tmp_path, GOOD + "data: {kind: phantom, films: 7}\n", "root.yaml")
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", "base: ../root.yaml\ntraining: {epochs: 9, milestones: [2, 3]}\n", "middle.yaml")
    leaf = write(tmp_path / "inner", "base: middle.yaml\ntraining: {milestones: [5], mode: max}\n")
    experiment = load_config(leaf, Experiment)
    expected = TrainingConfig(monitor="loss", mode="max", epochs=9, milestones=(5,))
    assert experiment == Experiment(training=expected, data=Phantom(kind="phantom", films=7))


class Named(Experiment):
    own_keys = ("group",)
    group: str | None = None


def test_a_key_of_the_files_own_is_not_taken_over_in_silence(tmp_path):
    root = write(tmp_path, GOOD + "group: many\n", "root.yaml")
    assert load_config(root, Named).group == "many"
    silent = write(tmp_path, "base: root.yaml\n")
    words = r'group = "many" \(from .*root\.yaml\) is not taken over: write `group: many` here .* or `group: null`'
    with pytest.raises(ConfigError, match=words):
        load_config(silent, Named)
    for said, group in (("many", "many"), ("other", "other"), ("null", None)):
        write(tmp_path, f"base: root.yaml\ngroup: {said}\n", "middle.yaml")
        assert load_config(tmp_path / "middle.yaml", Named).group == group
    assert load_config(write(tmp_path, "base: middle.yaml\n"), Named).group is None  # the nearest says null
    assert load_config(write(tmp_path, GOOD, "root.yaml"), Named).group is None


def test_base_errors_name_the_file_that_holds_the_value(tmp_path):
    root = write(tmp_path, "training: {monitor: loss, mode: min, epochs: 0}", "root.yaml")
    leaf = write(tmp_path, "base: root.yaml\ntraining: {batch_size: 0}")
    words = (
        "training.epochs = 0: must be greater than or equal to 1 (from {}); training.batch_size = 0: must be greater"
    )
    assert refusal(leaf).startswith(words.format(root))
    assert refusal(write(tmp_path, "base: [root.yaml]")) == "base = ['root.yaml']: must be the name of one file"
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(write(tmp_path, "base: absent.yaml"), Experiment)


def test_base_cycles_are_refused(tmp_path):
    write(tmp_path, "base: experiment.yaml", "other.yaml")
    assert refusal(write(tmp_path, "base: other.yaml")).startswith("base: the files name each other: ")
    assert refusal(write(tmp_path, "base: experiment.yaml")).startswith("base: the files name each other: ")
