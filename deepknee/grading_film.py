"""One film -> ROIs of its knees in memory, with what is to be remembered of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from deepknee.boxes import BOX_MM
from deepknee.grading_plan import AskedKnee, RoiTask
from deepknee.roi_row import RoiRow, picture_name
from kneel.imaging.dicom import read_radiograph
from kneel.imaging.geometry import RoiFrame, Side, Spacing
from kneel.imaging.polarity import HALF_MM, crops_are_dark, grey_levels, inverted
from kneel.imaging.preparing import DARK_BONE, Problem, encode_png, orientation_remarks
from kneel.imaging.radiograph import Radiograph, RadiographError
from kneel.imaging.tags import is_frontal, is_pa

ROIS = "rois"
BOX_TOLERANCE = 0.03  # of 120 mm; a box further off was drawn by hand, or the spacing is another


@dataclass(frozen=True)
class Joint:
    """Where a knee is.

    Attributes
    ----------
    side : {"L", "R"}
        Laterality.
    center : (float, float)
        Joint centre, (x, y) in film pixels.
    spacing_mm : (float, float)
        (row, column) by which it was found: for films that say none themselves.
    points : ndarray, shape (16, 2), or None
        Landmarks in film pixels.
    confidence : float
        0 to 1.
    flags : tuple of str
        Of the networks.
    """

    side: Side
    center: tuple[float, float]
    spacing_mm: Spacing
    points: NDArray[np.float64] | None = None
    confidence: float = 1.0
    flags: tuple[str, ...] = ()


class Locate(Protocol):
    """Finds the knees of a film; `id` changes with its networks and its code.

    Must be picklable to be used by several processes.
    """

    id: str

    def __call__(self, radiograph: Radiograph) -> list[Joint]:
        """Return 0, 1 or 2 knees."""


@dataclass(frozen=True)
class RoiSize:
    """Width of ROIs in mm and in pixels."""

    mm: float = 140.0
    px: int = 350


@dataclass(frozen=True)
class RoiRecord:
    """What came of a task: the request, rows of the knees that were cut, problems."""

    request: dict[str, Any]
    rows: tuple[RoiRow, ...] = ()
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a record; KeyError or TypeError when it is none.

        Parameters
        ----------
        data : dict
            As `to_json` gave it.
        """
        rows = tuple(RoiRow(**row) for row in data["rows"])
        return cls(data["request"], rows, tuple(Problem(**problem) for problem in data["problems"]))


def request_of(task: RoiTask, size: RoiSize, locate: Locate | None) -> dict[str, Any]:
    """Describe a task and the film as it lies there, so that a change of either is seen.

    Parameters
    ----------
    task : RoiTask
        The task; its film must exist.
    size : RoiSize
        Of the ROIs.
    locate : Locate or None
        What finds the knees; None for boxes.
    """
    status = task.film.path.stat()
    film = [str(task.film.path), status.st_size, status.st_mtime_ns]
    knees = [asdict(knee) for knee in task.knees]
    return {"film": film, "knees": knees, "size": asdict(size), "networks": locate.id if locate else None}


def cut_rois(task: RoiTask, size: RoiSize, locate: Locate | None) -> tuple[RoiRecord, dict[str, bytes]]:
    """Read a film and cut its knees.

    Parameters
    ----------
    task : RoiTask
        What to do.
    size : RoiSize
        Of the ROIs.
    locate : Locate or None
        What finds the knees; None for the boxes of the task.

    Returns
    -------
    record : RoiRecord
        Every knee of the task is among its rows or its missing problems; a film that cannot be read is a problem.
    pictures : dict of str to bytes
        PNG files by name.
    """
    try:
        request = request_of(task, size, locate)
        film = read_radiograph(task.film.path)
    except (RadiographError, OSError) as error:
        text = error.problem if isinstance(error, RadiographError) else str(error)
        return RoiRecord({}, problems=_missing(task, task.knees, f"film unreadable: {text}")), {}
    wrong_view = _wrong_view(film)
    if wrong_view:
        return RoiRecord(request, problems=_missing(task, task.knees, wrong_view)), {}
    spacing = _spacing(film)
    joints, problems = _boxed(task, film) if locate is None else _located(task, locate(film))
    remarks = _remarks(task, film, spacing[0])
    grey = grey_levels(film)
    if _dark(grey, joints):  # as reading does
        film = inverted(film)
        grey = grey_levels(film)
        remarks.append(DARK_BONE)
        again = ({}, []) if locate is None else _located(task, locate(film))
        joints, problems = again if again[0] else (joints, problems)
    problems += [Problem(task.film.subject_id, "", task.film.name, "note", text) for text in remarks]
    rows, pictures = _cut(task, film, grey, spacing, joints, size)
    return RoiRecord(request, tuple(rows), tuple(problems)), pictures


def _dark(grey: NDArray[np.uint8], joints: Mapping[Side, Joint]) -> bool:
    """Say whether all knees have dark bone."""
    middles = [np.array(joint.center) for joint in joints.values()]
    return crops_are_dark(grey, middles, [HALF_MM / joint.spacing_mm[1] for joint in joints.values()])


def _missing(task: RoiTask, knees: tuple[AskedKnee, ...], why: str) -> tuple[Problem, ...]:
    film = task.film
    text = f"{why} (visit {film.visit})"
    return tuple(Problem(film.subject_id, knee.side, film.name, "missing", text) for knee in knees)


def _boxed(task: RoiTask, film: Radiograph) -> tuple[dict[Side, Joint], list[Problem]]:
    """Take the middles of the boxes, unless they cannot be the knees that the list says they are."""
    joints: dict[Side, Joint] = {}
    problems: list[Problem] = []
    height, width = film.pixels.shape
    for knee in task.knees:
        if knee.box is None:
            raise ValueError(f"{task.film.name}: knee {knee.side} has no box, and there is nothing to find it with")
        x, y = knee.box.center
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            why = f"no box: its middle ({x:.0f}, {y:.0f}) is not on the film of {width} x {height}: another film?"
        elif knee.beside is not None and (x > knee.beside) != (film.look_of(knee.side) == "L"):
            seen = "from behind (PatientOrientation)" if film.columns_reversed else "from the front"
            why = f"wrong side: its box is at x = {x:.0f}, the other at {knee.beside:.0f}, and the film is seen {seen}"
        else:
            spacing = BOX_MM / knee.box.size
            joints[knee.side] = Joint(knee.side, (x, y), (spacing, spacing))
            continue
        problems += _missing(task, (knee,), why)
    return joints, problems


def _located(task: RoiTask, found: list[Joint]) -> tuple[dict[Side, Joint], list[Problem]]:
    """Take the knees that the networks found; one whose side they doubt may have the other knee's grade."""
    joints: dict[Side, Joint] = {}
    problems: list[Problem] = []
    count = Counter(joint.side for joint in found)
    by_side = {joint.side: joint for joint in found}
    for knee in task.knees:
        joint = by_side.get(knee.side)
        if joint is None:
            why = f"not found: the networks see {', '.join(sorted(by_side)) or 'no knee'} on the film"
        elif count[knee.side] > 1 or "side_uncertain" in joint.flags:
            why = "wrong side: the networks are not sure which knee it is"
        else:
            joints[knee.side] = joint
            continue
        problems += _missing(task, (knee,), why)
    return joints, problems


def _wrong_view(film: Radiograph) -> str:
    """Say why the header's view cannot be a PA film; the download's word is taken for AP against PA."""
    if film.other_view is not None:
        return f"view: the header says both {film.view!r} and {film.other_view!r}, must be PA"
    return "" if film.view is None or is_frontal(film.view) else f"view: the header says {film.view!r}, must be PA"


def _remarks(task: RoiTask, film: Radiograph, spacing: Spacing | None) -> list[str]:
    remarks = []
    if film.view is not None and not is_pa(film.view):
        remarks.append(f"the header says that the view is {film.view}; it was taken as the download names it")
    remarks += orientation_remarks(film)
    if film.laterality in ("L", "R"):
        remarks.append(f"the header says that it shows the {film.laterality} knee only; it was taken to show both")
    if film.patient_id is not None and film.patient_id != task.film.subject_id:
        remarks.append(f"PatientID is {film.patient_id!r}")
    for knee in task.knees if spacing else ():
        mm = BOX_MM if knee.box is None or spacing is None else knee.box.size * spacing[1]
        if abs(mm / BOX_MM - 1) > BOX_TOLERANCE:
            what = f"the box of knee {knee.side} is {mm:.0f} mm wide, not {BOX_MM:.0f}"
            remarks.append(f"{what}: drawn by hand, or made at another spacing")
    sizes = [] if spacing else [knee.box.size for knee in task.knees if knee.box is not None]
    if sizes and max(sizes) / min(sizes) - 1 > BOX_TOLERANCE:
        widths = " and ".join(f"{size:.0f}" for size in sizes)
        remarks.append(
            f"no spacing, and boxes of {widths} pixels, each of which was taken for {BOX_MM:.0f} mm: its knees are cut "
            "at different scales"
        )
    return remarks


def _spacing(film: Radiograph) -> tuple[Spacing | None, str]:
    """The detector's spacing, as the authors cut with; else what the header has. Reading cuts by the same."""
    return film.roi_spacing_mm, film.spacing_kind if film.detector_mm is None else "detector"


def _cut(
    task: RoiTask,
    film: Radiograph,
    grey: NDArray[np.uint8],
    known: tuple[Spacing | None, str],
    joints: Mapping[Side, Joint],
    size: RoiSize,
) -> tuple[list[RoiRow], dict[str, bytes]]:
    rows: list[RoiRow] = []
    pictures: dict[str, bytes] = {}
    if not joints:
        return rows, pictures
    digest = hashlib.sha256(f"{film.pixels.dtype} {film.pixels.shape}".encode() + film.pixels.tobytes()).hexdigest()
    for knee in task.knees:
        if knee.side not in joints:
            continue
        joint = joints[knee.side]
        boxed = joint.points is None
        spacing, kind = (known[0], known[1]) if known[0] else (joint.spacing_mm, "box" if boxed else "nominal")
        look = film.look_of(knee.side)
        frame = RoiFrame.around(joint.center, size.mm, spacing, side=look, roi_spacing_mm=size.mm / size.px)
        name = f"{ROIS}/{knee.kl}/{picture_name(task.film.subject_id, task.film.visit, knee.side)}"
        pictures[name] = encode_png(frame.crop(grey))
        points = "" if joint.points is None else ",".join(f"{v:.2f}" for v in frame.to_roi(joint.points).ravel())
        rows.append(
            RoiRow(
                file=name,
                subject_id=task.film.subject_id,
                visit=task.film.visit,
                side=knee.side,
                kl=knee.kl,
                code=knee.code,
                mm_per_px=size.mm / size.px,
                size=f"{frame.size[0]}x{frame.size[1]}",
                bytes=len(pictures[name]),
                center_x=round(joint.center[0], 2),
                center_y=round(joint.center[1], 2),
                joint_from="box" if boxed else "networks",
                confidence=round(joint.confidence, 4),
                flags=";".join(joint.flags),
                points=points,
                spacing_row_mm=spacing[0],
                spacing_column_mm=spacing[1],
                spacing_kind=kind,
                film=str(task.film.path),
                film_name=task.film.name,
                pixels_sha256=digest,
            )
        )
    return rows, pictures
