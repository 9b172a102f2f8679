"""Which knees are asked for, which of them can be cut, and why the others cannot.

Every knee that is asked for is in exactly one place: a `RoiTask`, or a missing `Problem` of its own. With lists, asked
for are both knees of every film, and every box that is given again; without, both knees of every subject and visit that
the download or, for the visits of the download, the readings know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepknee.boxes import SIDES, Box, ListedFilm
from deepknee.downloads import Download, DownloadedFilm
from deepknee.readings import KneeKey, Readings, ReadingsError
from kneel.imaging.geometry import Side
from kneel.imaging.preparing import Problem


@dataclass(frozen=True)
class AskedKnee:
    """A knee with a grade.

    Attributes
    ----------
    side : {"L", "R"}
        Laterality, as the readings have it.
    kl : int
        Grade.
    code : str
        The same as the readings have it.
    box : Box or None
        Its box, if a list gives one.
    beside : float or None
        Middle column of the box of the film's other knee, if a list gives one.
    """

    side: Side
    kl: int
    code: str
    box: Box | None = None
    beside: float | None = None


@dataclass(frozen=True)
class RoiTask:
    """A film and the knees to cut from it."""

    film: DownloadedFilm
    knees: tuple[AskedKnee, ...]

    @property
    def name(self) -> str:
        """The film's name as part of a file name."""
        return self.film.name.replace("/", "_")


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    tasks : tuple of RoiTask
        One a film.
    problems : tuple of Problem
        Knees that cannot be had, one each, and decisions.
    """

    tasks: tuple[RoiTask, ...]
    problems: tuple[Problem, ...]

    @property
    def asked(self) -> int:
        """Number of knees that were asked for."""
        missing = sum(problem.kind == "missing" for problem in self.problems)
        return sum(len(task.knees) for task in self.tasks) + missing


class _Planner:
    """Gathers tasks and problems; a knee of a visit is taken once."""

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self.tasks: list[RoiTask] = []
        self.problems: list[Problem] = []
        self.taken: dict[KneeKey, str] = {}

    def refuse(self, subject: str, sides: Iterable[str], film: str, why: str) -> None:
        """List knees as missing, one by one."""
        self.problems += [Problem(subject, side, film, "missing", why) for side in sides]

    def note(self, subject: str, side: str, film: str, what: str) -> None:
        """List a decision."""
        self.problems.append(Problem(subject, side, film, "note", what))

    def take(self, film: DownloadedFilm, listed: ListedFilm | None) -> None:
        """Ask for both knees of a film whose file is there."""
        knees = []
        for side in SIDES:
            key = KneeKey(film.subject_id, film.visit, side)
            grade = self.readings.of(key)
            why = self._fault(key, listed) or grade.reason
            if why or grade.kl is None:
                self.refuse(film.subject_id, side, film.name, f"{why} (visit {film.visit})")
                continue
            if grade.remark:
                self.note(film.subject_id, side, film.name, grade.remark)
            self.taken[key] = film.name
            boxes = dict(listed.boxes) if listed else {}
            box = boxes.pop(side, None)
            other = next(iter(boxes.values()), None)
            knees.append(AskedKnee(side, grade.kl, grade.code, box, other.center[0] if other else None))
        if knees:
            self.tasks.append(RoiTask(film, tuple(knees)))

    def _fault(self, key: KneeKey, listed: ListedFilm | None) -> str:
        if key in self.taken:
            return f"duplicate: this knee was taken from {self.taken[key]}"
        if listed is None:
            return ""
        if key.side not in listed.boxes:
            return f"no box: {listed.where} has none for it"
        return f"poor box: {listed.where} is listed as such" if key.side in listed.poor else ""

    def plan(self) -> Plan:
        """Return what was gathered."""
        return Plan(tuple(self.tasks), tuple(self.problems))


def plan_listed(download: Download, listed: Sequence[ListedFilm], readings: Readings) -> Plan:
    """Ask for both knees of every film of the authors' lists; a film may be on several lines, such as one a knee.

    Parameters
    ----------
    download : Download
        Where the films are.
    listed : sequence of ListedFilm
        The lines.
    readings : Readings
        Grades.

    Returns
    -------
    Plan
        Two knees a film, in the order of the lines, and a missing problem for every box that an earlier line gave too.

    Raises
    ------
    ReadingsError
        The readings know none of the subjects, or a subject cannot be part of a file name.
    """
    found = [download.films[line.name] for line in listed if line.name in download.films]
    _check_subjects(found, readings)
    planner = _Planner(readings)
    films, again = _by_film(listed)
    for line, sides in again:
        known = download.films.get(line.name)
        subject = known.subject_id if known else _subject(line.name)
        planner.refuse(subject, sides, line.name, f"duplicate: {line.where} gives a box that a line before it gave")
    for line in films:
        film = download.films.get(line.name)
        if film is None:
            why = f"film missing: {line.where} names it, {download.where} does not know it"
        else:
            why = film.fault if film.pa else f"view: the download calls it {film.view!r}, no bilateral PA film"
        if why:
            planner.refuse(film.subject_id if film else _subject(line.name), SIDES, line.name, why)
        elif film is not None:
            planner.take(film, line)
    return planner.plan()


def plan_all(download: Download, readings: Readings) -> Plan:
    """Ask for both knees of every subject at every visit of the readings.

    Parameters
    ----------
    download : Download
        Where the films are.
    readings : Readings
        Grades. Films of visits that they do not cover are not asked for; one note says how many.

    Returns
    -------
    Plan
        By subject, then by visit.

    Raises
    ------
    ReadingsError
        The readings know none of the subjects, or a subject cannot be part of a file name.
    """
    asked = [choice for choice in download.choices if choice.visit in readings.visits]
    _check_subjects(list(download.films.values()), readings)
    planner = _Planner(readings)
    for choice in asked:
        film = choice.film
        if film is None or film.fault:
            name, why = ("", choice.remark) if film is None else (film.name, film.fault)
            planner.refuse(choice.subject_id, SIDES, name, f"{why} (visit {choice.visit})")
            continue
        if choice.remark:
            planner.note(film.subject_id, "", film.name, choice.remark)
        planner.take(film, None)
    known = {(choice.subject_id, choice.visit) for choice in asked}
    visits = {visit for _, visit in known}
    for key, grade in readings.grades.items():
        if key.visit in visits and (key.subject_id, key.visit) not in known:
            why = grade.reason or f"film missing: {download.where} knows none"  # whom nobody filmed nobody read
            planner.refuse(key.subject_id, key.side, "", f"{why} (visit {key.visit})")
    filmed = {choice.visit for choice in download.choices}
    for one_sided, what in ((filmed - readings.visits, "readings"), (readings.visits - filmed, "films")):
        if one_sided:
            planner.note(
                "", "", "", f"visit {', '.join(sorted(one_sided))}: not asked for, as there are no {what} of it"
            )
    return planner.plan()


def _check_subjects(films: Sequence[DownloadedFilm], readings: Readings) -> None:
    if films and not any(film.subject_id in readings.subjects for film in films):
        raise ReadingsError(
            f"{readings.source}: knows none of the subjects of the films, whose first is {films[0].subject_id!r}; its "
            f"own first is {next(iter(readings.grades)).subject_id!r}: the wrong column, or the wrong cohort?"
        )
    for film in films:
        if not re.fullmatch(r"[\w-][\w.-]*", film.subject_id, re.ASCII):
            raise ReadingsError(f"{film.name}: subject is {film.subject_id!r}, must be letters, digits, _ . and -")


def _by_film(listed: Sequence[ListedFilm]) -> tuple[list[ListedFilm], list[tuple[ListedFilm, list[Side]]]]:
    """Put the lines of a film together; say which boxes of which lines were there already."""
    films: dict[str, ListedFilm] = {}
    again: list[tuple[ListedFilm, list[Side]]] = []
    for line in listed:
        first = films.setdefault(line.name, line)
        if first is line:
            continue
        again.append((line, [side for side in line.boxes if side in first.boxes]))
        poor = (first.poor & first.boxes.keys()) | (line.poor - first.boxes.keys())
        where = f"{first.where} and {line.where}"
        films[line.name] = ListedFilm(line.name, line.boxes | first.boxes, poor, where)
    return list(films.values()), again


def _subject(name: str) -> str:
    """Guess the subject of a film that no download knows, for the table of problems: it is a folder of the path."""
    parts = name.split("/")
    return parts[1] if re.match(r"\d+\.", parts[0]) and len(parts) > 1 else parts[0].split("_")[0]
