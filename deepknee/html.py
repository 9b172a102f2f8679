"""``report.html``: one card a knee, all in one file, without scripts and without the network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from deepknee.report import NOTICE, spacing_text
from deepknee.stylesheet import CSS

Record = Mapping[str, Any]

GRADE_WORDS = ("none", "doubtful", "minimal", "moderate", "severe")
SIDE_WORDS = {"R": "Right knee", "L": "Left knee"}
SPACING_WORDS = {
    "calibrated": "calibrated",
    "detector": "at detector",
    "demagnified": "at detector, divided by the header's magnification factor",
    "given": "given by the user",
    "none": "none, so nothing on this film is in millimetres",
}
ATTENTION_WORDS = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM", "integrated": "integrated gradients"}
FLAG_WORDS = {
    "implausible_size": "The knee is too large or too small for the film's pixel spacing: check the spacing.",
    "low_confidence": "The knee was found with low confidence.",
    "nominal_scale": "The film carries no pixel spacing; its scale was guessed from the size of the knee.",
    "reversed_columns": "The header says that the film is seen from behind: check left and right.",
    "upside_down": "The header says that the film lies upside down; the knee was read, and is shown, turned over.",
    "orientation_uncertain": "The header says that the film lies upside down, but its knees look upright.",
    "on_side": "The header says that the film lies on its side; it was read as it stands. Where the picture shows a "
    "lying leg, do not use this reading: the grade of a lying knee means nothing.",
    "dark_bone": "Bone is dark on this picture; it was read inverted.",
    "roi_outside_film": "Part of the knee lies outside the film.",
    "side_from_name": "Left or right was taken from the file name.",
    "side_from_image": "Left or right was judged from the picture; the file does not say.",
    "side_uncertain": "Left or right is doubtful: the header names both, or the look does not fit what the file "
    "says, or is alike both ways.",
    "more_knees_than_named": "The file names one side, but the film shows two knees.",
    "fewer_knees_than_expected": "The film says that it shows both knees, or is wide enough for two; one was found.",
    "view_not_ap_pa": "The header names another view than AP or PA; the numbers are for these two only.",
    "smaller_than_trained": "Millimetres are the patient's; the grader knows knees as the detector magnifies them.",
    "magnification_ignored": "The header's magnification factor was not divided out: it is not from 1 to 2, or whether "
    "its pixel spacing is the detector's is not said.",
    "view_uncertain": "The header contradicts itself: by one tag the view is AP or PA, by another it is neither.",
    "film_repeated": "The same picture was read under another name too, with the same landmarks: count it once.",
    "side_from_position": "Left or right was judged from the place on the film; the file does not say.",
}

# No scripts, no frames, no fonts, no requests: what is not in this file cannot be loaded by it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(
    knees: Sequence[tuple[str, Record]],
    failures: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]],
    made_by: Mapping[str, Any],
    picture: Callable[[str, str], bytes],
    link: Callable[[str, str], str],
) -> Iterator[bytes]:
    """Write the report, piece by piece: a thousand films do not fit comfortably into one string.

    Parameters
    ----------
    knees : sequence of (str, mapping)
        Name of the outputs and record (`deepknee.report.knee_record`) of each knee, in the order of the cards.
    failures, skipped : sequence of (str, str)
        File and reason.
    made_by : mapping
        What read the films, as in the records.
    picture : callable
        Returns the JPEG of a name's picture ``"landmarks"`` or ``"attention"``.
    link : callable
        Returns where that picture's PNG lies, relative to the report, as a URL.

    Yields
    ------
    bytes
        UTF-8; bytes of a file name that are no text come out as ``\\udcXX``.
    """
    yield _encode(_head([record for _, record in knees], failures, skipped))
    for name, record in knees:
        figures = "".join(
            _figure(record, kind, picture(name, kind), link(name, kind)) for kind in ("landmarks", "attention")
        )
        yield _encode(_card(record, figures))
    yield _encode(f"</main>\n{_failures(failures, skipped)}{_foot(made_by)}</body>\n</html>\n")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _head(knees: Sequence[Record], failures: Sequence[Any], skipped: Sequence[Any]) -> str:
    films = len({record["file"] for record in knees})
    unread = '<a href="#failures">films not read</a>' if failures else "films not read"
    figures = [(films, "films read"), (len(knees), "knees"), (len(failures), unread)]
    if skipped:
        figures.append((len(skipped), "other files"))
    flagged = sum(bool(_remarks(record)) for record in knees)
    figures.append((flagged, "knees with remarks"))
    numbers = "".join(f"<div><dt>{name}</dt><dd>{count}</dd></div>" for count, name in figures)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Knee readings</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        f'<header><h1>Knee readings</h1><p class="notice">{NOTICE}</p>\n<dl class="figures">{numbers}</dl>\n'
        f'{_filters(knees)}</header>\n<main class="cards">\n'
    )


def _filters(knees: Sequence[Record]) -> str:
    """Boxes that hide cards by CSS alone."""
    counts = Counter(record["kl"] for record in knees)
    boxes = "".join(
        f'<label title="{word}"><input type="checkbox" id="show{grade}" checked>'
        f'<span class="grade g{grade}">KL {grade}</span> {counts[grade]}</label>'
        for grade, word in enumerate(GRADE_WORDS)
    )
    remarks = '<label><input type="checkbox" id="remarks"> only knees with remarks</label>'
    return f'<form class="filters" autocomplete="off"><span>Show</span>{boxes}{remarks}</form>\n' if knees else ""


def _card(record: Record, figures: str) -> str:
    grade, side = int(record["kl"]), SIDE_WORDS[record["side"]]
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in _remarks(record))
    return (
        f'<article class="card k{grade}{" remarked" if remarks else ""}">\n'
        f'<h2>{side} <span class="grade g{grade}" title="{GRADE_WORDS[grade]}">KL {grade}</span></h2>\n'
        f'<p class="file"><bdi>{escape(record["file"])}</bdi></p>\n<div class="pictures">{figures}</div>\n'
        f"{_bars(record['probabilities'], grade)}{_grade_set(record)}<p><b>Pixel spacing</b> {_spacing(record)}</p>\n"
        f"<p><b>Joint space</b> {_joint_space(record)}</p>\n"
        f"{f'<ul class=remarks>{remarks}</ul>' if remarks else ''}</article>\n"
    )


def _figure(record: Record, kind: str, jpeg: bytes, link: str) -> str:
    data = base64.b64encode(jpeg).decode("ascii")
    label = f"{SIDE_WORDS[record['side']]}, {kind}"
    return (
        f'<figure><a href="{escape(link)}" title="full size"><img loading="lazy" decoding="async" '
        f'alt="{label}" width="300" height="300" src="data:image/jpeg;base64,{data}"></a>'
        f"<figcaption>{kind}</figcaption></figure>"
    )


def _bars(chances: Iterable[float], chosen: int) -> str:
    rows = "".join(
        f'<tr{" class=chosen" if grade == chosen else ""}><th scope="row">KL {grade}</th>'
        f'<td class="bar"><i style="width:{100 * chance:.1f}%"></i></td><td>{chance:.2f}</td></tr>'
        for grade, chance in enumerate(chances)
    )
    return f'<table class="bars"><caption>Probability of each grade</caption>{rows}</table>\n'


def _remarks(record: Record) -> list[str]:
    """Say what to know before trusting a card."""
    remarks = [flag_words(flag) for flag in record["flags"]]
    if record["abstain"]:
        doubt = (
            f"No single grade: it may be {set_words(record['grade_set'])}, of which KL {record['kl']} is the likeliest."
        )
        remarks.insert(0, doubt)
    return remarks


def _grade_set(record: Record) -> str:
    if not record["grade_set"]:
        return ""
    share = f"{100 * record['coverage']:.3g}"
    meaning = f"holds the true grade of {share} % of knees, if they are like those that the networks were checked on"
    return f'<p title="{meaning}"><b>Grades at {share} %</b> {set_words(record["grade_set"])}</p>\n'


def set_words(grades: Sequence[int]) -> str:
    """Say a set of neighbouring grades in words.

    Examples
    --------
    >>> set_words([2]), set_words([1, 2]), set_words([1, 2, 3])
    ('KL 2', 'KL 1 or 2', 'KL 1 to 3')
    """
    first, *others = grades
    link = "or" if len(others) == 1 else "to"
    return f"KL {first} {link} {others[-1]}" if others else f"KL {first}"


def _spacing(record: Record) -> str:
    kind = str(record["spacing_kind"])
    words = SPACING_WORDS.get(kind) or kind
    number = spacing_text(record["spacing_mm"]).replace("x", " × ")
    return escape(f"{number} mm, {words}" if number else words)


def _joint_space(record: Record) -> str:
    """Minimum joint space in mm, or in percent of the tibial width."""
    measures, percent = record["measures"], record["length_unit"] != "mm"
    factor, unit = (100, "% of the tibial width") if percent else (1, "mm")
    medial, lateral = (f"{factor * measures[name]:.1f}" for name in ("jsw_medial", "jsw_lateral"))
    return f"medial {medial}, lateral {lateral} {unit}; convergence {measures['jlca_deg']:.1f}°"


def flag_words(flag: str) -> str:
    """Say a flag in words; one that is not known here, as it is.

    Examples
    --------
    >>> flag_words("nominal_scale")
    'The film carries no pixel spacing; its scale was guessed from the size of the knee.'
    """
    return FLAG_WORDS.get(flag) or flag.replace("_", " ")


def _failures(failures: Sequence[tuple[str, str]], skipped: Sequence[tuple[str, str]]) -> str:
    parts = []
    tables = ("failures", "Films that were not read", failures), ("others", "Files that are no films", skipped)
    for anchor, title, rows in tables:
        if rows:
            lines = "".join(
                f"<tr><td><bdi>{escape(file)}</bdi></td><td>{escape(reason)}</td></tr>\n" for file, reason in rows
            )
            head = '<tr><th scope="col">file</th><th scope="col">reason</th></tr>'
            heading = f"<h2>{title} ({len(rows)})</h2>"
            parts.append(
                f'<section class="failures" id="{anchor}">{heading}\n<table>{head}\n{lines}</table></section>\n'
            )
    return "".join(parts)


def _foot(made_by: Mapping[str, Any]) -> str:
    attention = ATTENTION_WORDS[made_by.get("attention", "gradcam")]
    return (
        f"<footer><p>{NOTICE} Knees are shown as on the film, upright; left knees are not mirrored. Circles are the 16 "
        f"landmarks, lines the bones' outlines through them. Attention is {attention}: where the networks found what "
        "speaks for the grade, not a proof of disease. Pixel spacing at detector is that of the "
        "detector: a knee appears 5 to 15 % larger there, except where its card says that this was divided out. "
        "Full-size pictures, JSON and CSV lie beside this file.</p>"
        f"<p>Read by {escape(_made_by(made_by))}</p></footer>\n"
    )


def _made_by(made_by: Mapping[str, Any]) -> str:
    weights = made_by.get("weights") or {}
    nets = "; ".join(f"{task}: {what['experiment']} × {len(what['files'])}" for task, what in weights.items())
    code = made_by.get("code") or {}
    return f"{nets} (weights {made_by.get('id', 'unknown')}); code {code.get('package')} {code.get('commit') or ''}"
