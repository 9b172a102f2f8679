"""What changes in a picture that should change nothing do to the grades.

Pictures of a graded folder are changed as they are stored and written to another folder, which then goes the whole
way of the data: reading, dark bone, mirroring, resizing, contrast, networks. What a change uncovers at the border
repeats the border's grey levels. Where the networks follow landmarks, the points move with the picture: how well they
would have been found on it is another question.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepknee.dataset import load_knees
from deepknee.ensemble import Grader
from deepknee.graded_folder import LANDMARK_TABLE, graded_files
from deepknee.metrics import grading_metrics
from deepknee.predictions import GradePredictions, grade_knees, source_of
from deepknee.resample import resampled_metrics
from deepknee.sources import read_picture
from kneel.bootstrap import RESAMPLES, SubjectBootstrap, interval
from kneel.imaging.crops import PICTURE
from kneel.imaging.geometry import turn_about_middle

Picture = NDArray[np.uint8]
PLAIN = "as they are"
WORDS = """Every picture is changed as it is stored and then goes the whole way of the data. Loss is the kappa of the
pictures as they are less that of the changed ones, with its 95 % interval by paired bootstrap over subjects; grades
changed is the share of knees whose grade is another. What a change uncovers at the border repeats the border. Shifts
are in pixels of the stored pictures."""


@dataclass(frozen=True, eq=False)
class Change:
    """One change of a picture.

    Attributes
    ----------
    name : str
        In words.
    of : callable
        From grey levels (H, W) uint8 to the changed ones.
    matrix : callable
        From the size of the picture to the (2, 3) matrix that moves points along, in pixels whose integers are centres.
    swaps_sides : bool
        Whether a right knee becomes a left one.
    """

    name: str
    of: Callable[[Picture], Picture]
    matrix: Callable[[tuple[int, int]], NDArray[np.float64]] = lambda shape: np.eye(2, 3)
    swaps_sides: bool = False


def affine(name: str, *, degrees: float = 0.0, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> Change:
    """Turn and scale a picture about its centre, then shift it.

    Parameters
    ----------
    name : str
        In words.
    degrees : float
        Positive is counter-clockwise as seen.
    scale : float
        Above 1 makes the knee larger.
    shift : (float, float)
        To the right and down, in pixels.
    """

    def matrix(shape: tuple[int, int]) -> NDArray[np.float64]:
        return turn_about_middle(shape, degrees, scale) + [[0, 0, shift[0]], [0, 0, shift[1]]]

    def of(picture: Picture) -> Picture:
        size = picture.shape[::-1]
        return _grey(cv2.warpAffine(picture, matrix(picture.shape), size, borderMode=cv2.BORDER_REPLICATE))

    return Change(name, of, matrix)


def _mirror(shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.array([[-1.0, 0, shape[1] - 1], [0, 1, 0]])


def _half(shape: tuple[int, int]) -> NDArray[np.float64]:
    (high, wide), (height, width) = _halved(shape), shape
    across, down = wide / width, high / height
    return np.array([[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5]])


def _halved(shape: tuple[int, int]) -> tuple[int, int]:
    return max(1, shape[0] // 2), max(1, shape[1] // 2)


def _curve(of: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Picture], Picture]:
    """Change grey levels, (256,) on the 0 .. 1 scale, by a table."""
    table = np.rint(255 * np.clip(of(np.arange(256) / 255), 0, 1)).astype(np.uint8)
    return lambda picture: table[picture]


def _jpeg(picture: Picture) -> Picture:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return _grey(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def _shrunk(picture: Picture) -> Picture:
    return _grey(cv2.resize(picture, _halved(picture.shape)[::-1], interpolation=cv2.INTER_AREA))


def _grey(picture: object) -> Picture:
    return np.asarray(picture, np.uint8)


CHANGES = (
    Change("mirrored, the side letter too", lambda p: np.ascontiguousarray(p[:, ::-1]), _mirror, swaps_sides=True),
    Change("inverted", lambda p: 255 - p),
    Change("a fifth darker", _curve(lambda grey: 0.8 * grey)),
    Change("a fifth brighter", _curve(lambda grey: 1.2 * grey)),
    Change("gamma 0.7", _curve(lambda grey: grey**0.7)),
    Change("gamma 1.4", _curve(lambda grey: grey**1.4)),
    affine("turned by 10 degrees", degrees=10),
    affine("turned by -10 degrees", degrees=-10),
    affine("10 % larger", scale=1.1),
    affine("10 % smaller", scale=0.9),
    affine("8 pixels to the right", shift=(8, 0)),
    affine("8 pixels to the left", shift=(-8, 0)),
    affine("8 pixels down", shift=(0, 8)),
    affine("8 pixels up", shift=(0, -8)),
    Change("JPEG of quality 50", _jpeg),
    Change("half the resolution", _shrunk, _half),
)


def write_changed(change: Change, folder: Path, out: Path) -> None:
    """Write a graded folder anew with every picture changed.

    Parameters
    ----------
    change : Change
        What to do.
    folder : Path
        Graded folder; its landmarks, where it has a table of them, move along.
    out : Path
        Where the folders 0 to 4 go; must not hold any.

    Raises
    ------
    RadiographError
        A picture cannot be read.
    DatasetError
        It is not square or not of 8 bits.
    """
    shapes, names = {}, {}
    for path in graded_files(folder):
        picture = read_picture(path)
        name = f"{path.parent.name}/{_swapped(path.stem) if change.swaps_sides else path.stem}.png"
        names[f"{path.parent.name}/{path.name}"] = name
        shapes[name] = picture.shape
        (out / path.parent.name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / name), change.of(picture))
    for grade in range(5):
        (out / str(grade)).mkdir(exist_ok=True)
    if (folder / LANDMARK_TABLE).is_file():
        table = pd.read_csv(folder / LANDMARK_TABLE, dtype={"subject_id": str})
        _move_landmarks(table, change, names, shapes).to_csv(out / LANDMARK_TABLE, index=False)


def _swapped(stem: str) -> str:
    return stem[:-1] + {"L": "R", "R": "L"}[stem[-1]]


def _move_landmarks(
    table: pd.DataFrame, change: Change, names: dict[str, str], shapes: dict[str, tuple[int, int]]
) -> pd.DataFrame:
    table = table[table.file.isin(names)].reset_index(drop=True)
    # other pictures, so other digests: that the points were found on the plain ones is checked when those are graded
    table = table.assign(file=[names[file] for file in table.file]).drop(columns=PICTURE, errors="ignore")
    columns = [column for column in table if column[0] in "xy" and column[1:].isdigit()]
    points = table[columns].to_numpy(float).reshape(len(table), -1, 2)
    matrices = np.array([change.matrix(shapes[file]) for file in table.file])
    moved = np.einsum("nij,npj->npi", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    table[columns] = moved.reshape(len(table), -1)
    if change.swaps_sides:
        table["side"] = table.side.map({"L": "R", "R": "L"})
    if change.name == "inverted":
        table["inverted"] = 1 - table.inverted.astype(int)
    return table


def robustness_table(
    grader: Grader, folder: Path, plain: GradePredictions, *, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Grade a graded folder as it is and under every change.

    Parameters
    ----------
    grader : Grader
        The ensemble.
    folder : Path
        Graded folder: folders 0 to 4 of pictures ``{subject}{L|R}.png``.
    plain : GradePredictions
        What the grader said of the folder as it is.
    resamples : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        condition, kappa, loss (of kappa, against the pictures as they are), low, high (of the loss), accuracy, changed
        (share of knees with another grade), largest_change (of any probability).

    Raises
    ------
    RadiographError
        A picture cannot be read.
    DatasetError
        It is not square or not of 8 bits.
    """
    bootstrap = SubjectBootstrap(plain.subjects, resamples=resamples)
    before = resampled_metrics(plain.probabilities, plain.grades, bootstrap)["kappa"]
    rows = [_row(PLAIN, plain, plain, before, bootstrap)]
    for change in CHANGES:
        with tempfile.TemporaryDirectory() as place:
            write_changed(change, folder, Path(place))
            # kept, they would push what is read again out of the cache
            knees = load_knees(Path(place), source_of(Path(place)), grader.geometry, "film", keep=False)
            changed = grade_knees(grader, knees, Path(place), model=change.name)
        rows.append(_row(change.name, _as_before(changed, plain, change), plain, before, bootstrap))
    return pd.DataFrame(rows)


def _as_before(changed: GradePredictions, plain: GradePredictions, change: Change) -> GradePredictions:
    """Put the knees into the order of the unchanged ones: with other letters they sort otherwise."""
    names = {name: number for number, name in enumerate(changed.knees.knee)}
    wanted = [f"{_swapped(name[:-4])}.png" if change.swaps_sides else name for name in plain.knees.knee]
    order = [names[name] for name in wanted]
    return GradePredictions(changed.model, plain.knees, changed.probabilities[order])


def _row(
    name: str, changed: GradePredictions, plain: GradePredictions, before: NDArray, bootstrap: SubjectBootstrap
) -> dict[str, object]:
    found, base = (grading_metrics(each.probabilities, each.grades) for each in (changed, plain))
    low, high = interval(before - resampled_metrics(changed.probabilities, changed.grades, bootstrap)["kappa"])
    other = changed.probabilities.argmax(1) != plain.probabilities.argmax(1)
    return {
        "condition": name,
        "kappa": found["kappa"],
        "loss": base["kappa"] - found["kappa"],
        "low": float(low),
        "high": float(high),
        "accuracy": found["accuracy"],
        "changed": float(other.mean()),
        "largest_change": float(np.abs(changed.probabilities - plain.probabilities).max()),
    }
