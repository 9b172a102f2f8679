"""Semi-quantitative readings of the cohorts: tables of KL grades -> one grade, or the reason for none, of every knee.

Two layouts are known; the names of the columns can be given, so that tables of another release can be read.

=====  =====================================================================================================
OAI    ``kxr_sq_bu00`` to ``kxr_sq_bu10``: one row a knee and reading project, columns ``ID``, ``SIDE``
       (1 right, 2 left), ``READPRJ`` and ``V00XRKL`` (the visit is part of the name)
MOST   ``mostv01235xray``: one row a subject, columns ``MOSTID`` and, for every visit and side, ``V0XRKL``
       (visit 0, right knee), ``V0XLKL`` (left)
=====  =====================================================================================================

What is a grade: 0 to 4, also written ``2: Minimal``, ``2.0``. All else is none, and the reason says what stood there:
an empty cell or a code of missing values (``.``, ``.A: Not expected``, P, S, X, Z, negative numbers; pandas reads SAS's
own codes as empty); 8, which MOST writes for a replaced joint, and 9, for one that could not be read (their meaning is
taken from what users of the data write, not from a code book); any other number from 5 on; fractions such as 1.9, with
which MOST's readers marked joint space narrowing without a definite osteophyte. `read_readings` can be told to
take a code as a grade.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kneel.imaging.geometry import Side

Cohort = str  # "oai" or "most"
SAS = (".sas7bdat", ".xpt")
_MISSING = re.compile(r"\.\w?|[A-Z]|-\d+(\.0*)?|nan|na|n/a", re.IGNORECASE | re.ASCII)
_SIDES: dict[str, Side] = {"1": "R", "2": "L", "R": "R", "L": "L", "RIGHT": "R", "LEFT": "L"}
_FIRST_PROJECT = "15"  # the OAI's own: baseline to 48 months of all subjects; 37 (or 42) reread some of them


class ReadingsError(ValueError):
    """A table of readings that cannot be used: says file, column or row, and what would be right."""


class KneeKey(NamedTuple):
    """A knee at a visit: subject, visit as the table writes it ("00", "0"), side ("L" or "R")."""

    subject_id: str
    visit: str
    side: Side


@dataclass(frozen=True)
class Grade:
    """What was read of one knee.

    Attributes
    ----------
    kl : int or None
        Grade 0 to 4; None when there is none.
    code : str
        What stands in the table.
    reason : str
        Why there is none; empty when there is one.
    remark : str
        What was decided between several readings; mostly empty.
    missing : bool
        Whether nothing was read, which says nothing against another reading: an empty cell, or a code for that.
    """

    kl: int | None
    code: str
    reason: str = ""
    remark: str = ""
    missing: bool = False


@dataclass(frozen=True)
class Columns:
    """Names of the columns, in whatever case.

    Attributes
    ----------
    subject : str
        Subject.
    grade : str
        KL grade: the name with ``{visit}`` for the digits of the visit, and ``{side}`` for L or R where a row holds
        both knees.
    side, project : str or None
        Side where a row is one knee, and reading project; None when there is no such column.
    needs_project : bool
        Whether a table without the column of projects is refused; otherwise its readings are of none.
    """

    subject: str
    grade: str
    side: str | None = None
    project: str | None = None
    needs_project: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """What names of grade columns look like."""
        text = re.escape(self.grade).replace(r"\{visit\}", r"(?P<visit>\d+)").replace(r"\{side\}", "(?P<side>[LR])")
        return re.compile(text, re.IGNORECASE)


COLUMNS = {
    "oai": Columns("ID", "V{visit}XRKL", "SIDE", "READPRJ"),
    "most": Columns("MOSTID", "V{visit}X{side}KL"),
}


@dataclass(frozen=True)
class Readings:
    """Grades of all knees of one or more tables.

    Attributes
    ----------
    grades : dict of KneeKey to Grade
        In the order of the tables.
    source : str
        The tables' names, for messages.
    """

    grades: dict[KneeKey, Grade]
    source: str
    visits: frozenset[str] = field(init=False)
    subjects: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Collect visits and subjects."""
        object.__setattr__(self, "visits", frozenset(key.visit for key in self.grades))
        object.__setattr__(self, "subjects", frozenset(key.subject_id for key in self.grades))

    def of(self, key: KneeKey) -> Grade:
        """Return the grade of a knee, or why there is none.

        Parameters
        ----------
        key : KneeKey
            The knee.
        """
        if key in self.grades:
            return self.grades[key]
        if key.visit not in self.visits:
            what = f"visit {key.visit}: the readings are of visit {', '.join(sorted(self.visits))}"
        else:
            known = key.subject_id in self.subjects
            what = "no row for this side and visit" if known else f"no row for the subject in {self.source}"
        return Grade(None, "", f"no grade: {what}")


def parse_grade(value: object, taken: Mapping[str, int] | None = None) -> Grade:
    """Read one cell.

    Parameters
    ----------
    value : object
        A number, a text or nothing.
    taken : mapping of str to int, optional
        Codes that count as a grade, such as ``{"1.9": 1}``.

    Returns
    -------
    Grade
        See the table at the head of this module.

    Examples
    --------
    >>> parse_grade("2: Minimal").kl
    2
    >>> parse_grade(8.0).reason
    'prosthesis: the reading is 8'
    """
    code = _text(value)
    short = code.split(":")[0].strip()
    if taken and short in taken:
        return Grade(taken[short], code)
    if not short:
        return Grade(None, code, "no grade: the cell is empty or a missing value of SAS", missing=True)
    if _MISSING.fullmatch(short):
        return Grade(None, code, f"no grade: the reading is {code}, a code of missing values", missing=True)
    try:
        number = float(short)
    except ValueError:
        return Grade(None, code, f"no grade: the reading is {code!r}, must be 0 to 4")
    if number in range(5):
        return Grade(int(number), code)
    if number == 8:
        return Grade(None, code, "prosthesis: the reading is 8")
    if number == 9:
        return Grade(None, code, "no grade: the reading is 9, a film that could not be read")
    what = "a fraction is no KL grade" if number % 1 else "no KL grade, a prosthesis perhaps"
    return Grade(None, code, f"no grade: the reading is {code}, {what}")


def read_readings(
    tables: Sequence[Path], columns: Columns, *, project: str | None = None, taken: Mapping[str, int] | None = None
) -> Readings:
    """Read the grades of one or more tables.

    Parameters
    ----------
    tables : sequence of Path
        SAS (``.sas7bdat``, ``.xpt``), else text separated by commas, tabs, semicolons or ``|``.
    columns : Columns
        Names of the columns.
    project : str, optional
        Only readings of this project count. By default all do: where projects differ on a knee, project 15 (the one
        of all subjects) is believed and the others are named in the remark.
    taken : mapping of str to int, optional
        As for `parse_grade`.

    Returns
    -------
    Readings
        Every knee of the tables. Two readings of one knee that contradict each other within a project are no grade.

    Raises
    ------
    ReadingsError
        A table cannot be read, lacks a column, or names a side that is none.
    """
    found: dict[KneeKey, list[tuple[str, Grade]]] = defaultdict(list)
    for path in tables:
        table = _load(path)
        names = {str(name).strip().casefold(): name for name in table.columns}
        subject = _column(names, columns.subject, path)
        side = _column(names, columns.side, path) if columns.side else None
        cells = [(match, names[name]) for name in names if (match := columns.pattern.fullmatch(name))]
        if not cells:
            raise ReadingsError(f"{path}: no column {columns.grade} with digits for {{visit}}; has {_some(names)}")
        if columns.project and (columns.needs_project or project is not None):
            _column(names, columns.project, path)
        told = names.get((columns.project or "").casefold())
        for number, row in enumerate(table.to_dict("records"), 1):
            who = _text(row[subject])
            if not who:
                raise ReadingsError(f"{path}, row {number}: {columns.subject} is empty, must name the subject")
            where = _side(row[side], path, number) if side is not None else None
            reader = "" if told is None else _text(row[told]).split(":")[0].strip()
            if project is not None and reader != project:
                continue
            for match, name in cells:
                knee = where or _SIDES[match["side"].upper()]
                found[KneeKey(who, match["visit"], knee)].append((reader, parse_grade(row[name], taken)))
    if not found:
        of_project = f" of project {project}" if project is not None else ""
        raise ReadingsError(f"{', '.join(map(str, tables))}: no reading{of_project} in it")
    return Readings({key: _one(several) for key, several in found.items()}, ", ".join(path.name for path in tables))


def _one(several: list[tuple[str, Grade]]) -> Grade:
    """Take one of several readings of a knee."""
    read = [(project, grade) for project, grade in several if not grade.missing] or several
    # not by what stands there: text tables write 3 as "3: 3"
    grades = {(grade.kl, grade.reason): grade for _, grade in read}
    if len(grades) == 1:
        return read[0][1]
    own = {(grade.kl, grade.reason): grade for project, grade in read if project == _FIRST_PROJECT}
    told = ", ".join(
        f"{grade.code or 'nothing'}{f' (project {project})' if project else ''}" for project, grade in several
    )
    if len(own) == 1:
        (grade,) = own.values()
        return Grade(grade.kl, grade.code, grade.reason, f"several readings, {told}: that of project 15 is taken")
    return Grade(None, "", f"no grade: several readings that differ, {told}")


def _load(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.casefold() in SAS:
            return pd.read_sas(path, encoding="latin-1")
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            head = stream.readline()
        separator = max(",|\t;", key=head.count)
        options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "encoding_errors": "replace"}
        return pd.read_csv(path, sep=separator, **options)
    except OSError as error:
        raise ReadingsError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # pandas' readers raise whatever a damaged file makes them stumble over
        raise ReadingsError(f"{path}: not a table ({error}); a SAS table must end in {' or '.join(SAS)}") from error


def _text(value: object) -> str:
    """A cell as text; whole numbers without a decimal point, nothing for a missing value."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if value is None or value != value:
        return ""
    if isinstance(value, float) and 0 < value < 1e-70:
        value = 0.0  # pandas reads the zero of a SAS transport file as 5.4e-79
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def _side(value: object, path: Path, row: int) -> Side:
    text = _text(value)
    side = _SIDES.get(text.split(":")[0].strip().upper())
    if side is None:
        raise ReadingsError(f"{path}, row {row}: side is {text!r}, must be 1 or R (right), 2 or L (left)")
    return side


def _column(names: Mapping[str, str], name: str, path: Path) -> str:
    if name.casefold() not in names:
        raise ReadingsError(f"{path}: no column {name}; has {_some(names)}")
    return names[name.casefold()]


def _some(names: Mapping[str, str]) -> str:
    known = list(names.values())
    return ", ".join(map(str, known[:12])) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
