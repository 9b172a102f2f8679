"""A reading as files: a JSON record and two PNG pictures a knee, and the rows of the tables.

Tables are made from the JSON records alone, so that they can be made again at any time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepknee.knee_reading import KneeReading
from kneel.imaging.radiograph import Radiograph

FORMAT = 3  # of the JSON records; another number is another program's
NOTICE = "Research use only. Not a medical device."
CONVENTION = (
    "points are (x, y) in pixels of the film, an integer is the centre of a pixel; spacing is (row, column) in mm"
)

_CHANCES = ("p0", "p1", "p2", "p3", "p4")
_POINTS = tuple(f"{axis}{number}" for number in range(16) for axis in "xy")
_MEASURES = ("jsw_medial", "jsw_lateral", "jlca_deg", "tibial_width", "femoral_width")
RESULT_COLUMNS = (
    *("file", "side", "kl", *_CHANCES, "grade_set", "abstain", "spacing_mm", "spacing_kind"),
    *(*_POINTS, *_MEASURES, "length_unit", "flags"),
)
# of the columns that are numbers
DECIMALS = {**dict.fromkeys(_CHANCES, 4), **dict.fromkeys(_POINTS, 2), **dict.fromkeys(_MEASURES, 3)}
FAILURE_COLUMNS = ("file", "reason")

_FILM_KEYS = (
    *("laterality", "view", "modality", "patient_id", "study_instance_uid", "series_instance_uid"),
    *("sop_instance_uid", "sop_class_uid"),
)


def knee_record(file: str, radiograph: Radiograph, knee: KneeReading, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a knee as JSON.

    Parameters
    ----------
    file : str
        The film, as the user named it.
    radiograph : Radiograph
        The film.
    knee : KneeReading
        One of its knees.
    provenance : mapping
        What read it: weights and code.

    Returns
    -------
    dict
        JSON; all numbers of the reading but the pictures.
    """
    rows, columns = radiograph.pixels.shape
    frame = knee.frame
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "convention": CONVENTION,
        "file": file,
        "side": knee.side,
        "kl": knee.kl,
        "probabilities": _plain(knee.probabilities),
        "grade_set": list(knee.grade_set) or None,
        "coverage": knee.coverage,
        "abstain": knee.abstain,
        "landmarks": _plain(knee.landmarks),
        "spread_px": _plain(knee.spread_px),
        "center": _plain(knee.center),
        "confidence": knee.confidence,
        "spacing_mm": None if knee.spacing_mm is None else _plain(knee.spacing_mm),
        "spacing_kind": knee.spacing_kind,
        "measures": {name: float(value) for name, value in knee.measures._asdict().items()},
        "length_unit": knee.length_unit,
        "flags": list(knee.flags),
        "roi": {
            "center": _plain(frame.center),
            "film_px_per_roi_px": _plain(frame.scale),
            "size": [int(side) for side in frame.size],
            "mirrored": bool(frame.mirrored),
            "upside_down": bool(frame.upside_down),
        },
        "film": {"rows": rows, "columns": columns, **{key: getattr(radiograph, key) for key in _FILM_KEYS}},
        "made_by": dict(provenance),
    }


def to_json(record: Mapping[str, Any]) -> bytes:
    """Write a record as JSON: ASCII, one line a value, no NaN."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode("ascii")


def result_values(record: Mapping[str, Any]) -> list[Any]:
    """Return the row of a knee as values.

    Parameters
    ----------
    record : mapping
        From `knee_record`.

    Returns
    -------
    list
        As `RESULT_COLUMNS`: texts, the grade as an int, abstain as a bool, the numbers of `DECIMALS` as floats in full;
        spacing as `spacing_text`, flags and the grades of the set joined by ``;``. None where there is no spacing or no
        set.
    """
    points = [value for point in record["landmarks"] for value in point]
    certainty = [";".join(map(str, record["grade_set"] or ())) or None, record["abstain"]]
    spacing = [spacing_text(record["spacing_mm"]) or None, record["spacing_kind"]]
    measures = [*record["measures"].values(), record["length_unit"]]
    head = [record["file"], record["side"], record["kl"]]
    return [*head, *record["probabilities"], *certainty, *spacing, *points, *measures, ";".join(record["flags"])]


def result_cells(values: Iterable[Any]) -> list[str]:
    """Print the row of a knee for ``results.csv``.

    Parameters
    ----------
    values : iterable
        From `result_values`.

    Returns
    -------
    list of str
        Numbers to the decimals of `DECIMALS`, abstain as ``yes`` or ``no``, nothing for None.
    """
    return [_cell(column, value) for column, value in zip(RESULT_COLUMNS, values, strict=True)]


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in DECIMALS:
        return f"{value:.{DECIMALS[column]}f}"
    return {True: "yes", False: "no"}[value] if column == "abstain" else str(value)


def spacing_text(spacing_mm: Iterable[float] | None) -> str:
    """Print a spacing: one number when rows and columns have the same, ``ROWxCOLUMN`` otherwise, nothing for none.

    Parameters
    ----------
    spacing_mm : (float, float) or None
        (row, column) spacing in mm.

    Examples
    --------
    >>> spacing_text((0.143, 0.143)), spacing_text((0.2, 0.1)), spacing_text(None)
    ('0.143', '0.2x0.1', '')
    """
    if spacing_mm is None:
        return ""
    row, column = (f"{value:.6g}" for value in spacing_mm)
    return row if row == column else f"{row}x{column}"


def to_csv(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> bytes:
    """Write a table as CSV in UTF-8; bytes of a file name that are no text come out as ``\\udcXX``."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _plain(values: Iterable[Any] | NDArray) -> list[Any]:
    return np.asarray(values, float).tolist()
