"""The folder of an evaluation: tables as CSV, Markdown and LaTeX, pictures, and report.md that shows them all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from kneel.assess import error_figures, measure_figures, report_cv, report_test, severity_groups
from kneel.assess_figures import draw_curves, draw_measures, save_figure
from kneel.assess_knees import draw_knees
from kneel.bootstrap import RESAMPLES, SubjectBootstrap
from kneel.engine.snapshot import write_atomic
from kneel.engine.tables import latex, markdown
from kneel.metrics import BOUNDS_MM
from kneel.predictions import PredictionError, Predictions

NOTICE = "*Research use only. Not a medical device.*"
_BOUNDS = [f"{bound:g} mm" for bound in BOUNDS_MM]
_CV_WORDS = """Per knee and bone, the mean error of the two edges (tibia 0 and 8, femur 9 and 15). Percentage of knees
within each bound, mean ± SD over the two bones; outliers: knees with any of the 16 points off by 10 mm or more, %."""
_TEST_WORDS = """The same with three points a bone (tibia 0, 4, 8; femur 9, 12, 15), by bone and severity."""
_ERROR_WORDS = """95 % intervals in brackets: percentile bootstrap, {resamples} resamples of the subjects, both knees of
one together. Where no knee is an outlier the interval has no width; with n subjects, up to 3/n of all may be."""
_MEASURE_WORDS = """Measures on the predicted points less those on the annotated ones: bias, mean absolute error, Bland
and Altman's 95 % limits of agreement, ICC(A,1). Definitions: `kneel/measure.py`."""
_OTHER_KNEES = "**Not all experiments were judged on the same knees**: what differs between two may be their knees."
_OF_POINTS = ("measures.csv", "cv.csv", "cv.tex", "test.csv", "test.tex")  # not of joint centres


def write_report(
    folder: Path,
    evaluated: Sequence[Predictions],
    *,
    images: Path | None = None,
    resamples: int = RESAMPLES,
    progress: Callable[[Sequence[Predictions]], Iterable[Predictions]] = iter,
) -> None:
    """Evaluate experiments and write everything that is said of them.

    Tables and curves that an earlier report left there and this one has not are removed.

    Parameters
    ----------
    folder : Path
        Where the files go; made if it is not there.
    evaluated : sequence of Predictions
        One or more experiments of different names, all of 16 points or all of the joint centre.
    images : Path or None
        Folder with ROIs ``{subject_id}_{kl}_{side}.png`` for the page of knees; without it there is no such page.
    resamples : int
        Of the bootstrap.
    progress : callable
        Wraps the walk over the experiments, for a progress bar.

    Raises
    ------
    PredictionError
        Two experiments of one name, or of different numbers of points.
    RadiographError
        A picture is missing or does not fit its points.
    """
    _check(evaluated)
    # first, because pictures may be missing: no report, not half of one
    pages = {} if images is None else {one.experiment: draw_knees(one, images) for one in evaluated}
    folder.mkdir(parents=True, exist_ok=True)
    for experiment, page in pages.items():
        save_figure(page, folder, f"{file_name(experiment)}_knees", ("png",))
    whole = evaluated[0].points.shape[1] > 1
    for name in (*(() if whole else _OF_POINTS), *(("curves.png", "curves.pdf") if len(evaluated) == 1 else ())):
        (folder / name).unlink(missing_ok=True)
    errors, measures, sections = [], [], []
    for one in progress(evaluated):
        bootstrap = SubjectBootstrap(one.knees.subject_id.tolist(), resamples=resamples)
        errors.append(error_figures(one, bootstrap))
        if whole:
            measures.append(measure_figures(one, bootstrap))
        sections.append(_section(folder, one, errors[-1], measures[-1] if whole else None, images is not None))
    _write(folder / "errors.csv", pd.concat(errors).to_csv(index=False, float_format="%.6g"))
    text = ["# Landmarks: predicted against annotated", NOTICE, _files(whole), markdown(_who(evaluated))]
    if len({frozenset(zip(one.knees.subject_id, one.knees.side, strict=True)) for one in evaluated}) > 1:
        text.append(_OTHER_KNEES)
    if whole:
        _write(folder / "measures.csv", pd.concat(measures).to_csv(index=False, float_format="%.6g"))
        text += _paper(folder, "cv", "The paper's report of a cross-validation", _CV_WORDS, map(report_cv, evaluated))
        text += _paper(folder, "test", "The paper's report of a test set", _TEST_WORDS, map(report_test, evaluated))
    if len(evaluated) > 1:
        draw_curves(folder, "curves", {one.experiment: one.errors_mm for one in evaluated})
        text += ["## Cumulative errors", "![cumulative errors of all experiments](curves.png)"]
    text += ["## Errors with intervals", _ERROR_WORDS.format(resamples=resamples), *sections]
    _write(folder / "report.md", "\n\n".join(text) + "\n")


def _check(evaluated: Sequence[Predictions]) -> None:
    names = [file_name(one.experiment) for one in evaluated]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PredictionError(f"{', '.join(twice)}: in more than one table; experiments need names of their own")
    points = {one.points.shape[1] for one in evaluated}
    if len(points) > 1:
        raise PredictionError("some tables hold 16 points and others the joint centre; evaluate them one after another")


def file_name(experiment: str) -> str:
    """Turn the name of an experiment into one that any file may have.

    Parameters
    ----------
    experiment : str
        Any text.

    Returns
    -------
    str
        Letters, digits, ``_``, ``-`` and ``.``, no dot first.
    """
    return re.sub(r"[^\w.-]+", "_", experiment).lstrip(".") or "_"


def _files(whole: bool) -> str:
    tables = ["`errors.csv`"]
    if whole:
        tables += ["`measures.csv`", "`cv.csv` and `cv.tex`", "`test.csv` and `test.tex` (the paper's tables)"]
    return f"All numbers: {', '.join(tables)}. Every curve also as PDF."


def _who(evaluated: Sequence[Predictions]) -> pd.DataFrame:
    rows = []
    for one in evaluated:
        knees = one.knees
        grades = " / ".join(str((knees.kl == grade).sum()) for grade in range(5))
        counts = {"knees": len(knees), "subjects": knees.subject_id.nunique(), "KL 0 / 1 / 2 / 3 / 4": grades}
        rows.append({"experiment": one.experiment, **counts, "folds": ", ".join(sorted(set(knees.fold)))})
    return pd.DataFrame(rows)


def _paper(folder: Path, name: str, title: str, words: str, tables: Iterable[pd.DataFrame]) -> list[str]:
    """Write one of the paper's tables in all forms; the parts of the report that show it."""
    table = pd.concat(tables, ignore_index=True)
    _write(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    shown = table[[column for column in table if not column.endswith("SD")]].astype(object)
    for row, column in ((row, column) for row in table.index for column in _BOUNDS):
        spread = table[f"{column}, SD"][row]
        shown.loc[row, column] = f"{table[column][row]:.2f}" + ("" if pd.isna(spread) else f" ± {spread:.2f}")
    shown["outliers"] = [f"{value:.2f}" for value in table.outliers]
    shown = shown.rename(columns={"outliers": "outliers, %"})
    _write(folder / f"{name}.tex", f"% {NOTICE.strip('*')} Needs the package booktabs.\n{latex(shown)}")
    return [f"## {title}", words, markdown(shown)]


def _section(folder: Path, one: Predictions, errors: pd.DataFrame, measures: pd.DataFrame | None, knees: bool) -> str:
    """Draw the pictures of one experiment, and lay out its part of the report."""
    name, groups = file_name(one.experiment), severity_groups(one.knees.kl)
    draw_curves(folder, f"{name}_curves", {group: one.errors_mm[mask] for group, mask in groups.items()})
    text = [f"### {one.experiment}", markdown(_wide(errors, ["knees", "points", "number of knees"]))]
    text.append(f"![cumulative errors]({name}_curves.png)")
    if measures is not None:
        draw_measures(folder, f"{name}_measures", one)
        text += [_MEASURE_WORDS, markdown(_wide(measures, ["measure"]))]
        text.append(f"![agreement of the measures]({name}_measures.png)")
    if knees:
        text.append(f"![the best, median and worst knees by mean error, left ones mirrored]({name}_knees.png)")
    return "\n\n".join(text)


def _wide(figures: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row a group and one column a figure, with its interval."""
    cells = [f"{row.value:.3g} ({row.low:.3g} to {row.high:.3g})" for row in figures.itertuples()]
    table = figures.assign(cell=cells).pivot_table(
        index=by, columns="figure", values="cell", aggfunc="first", sort=False
    )
    return table.reset_index()


def _write(path: Path, text: str) -> None:
    write_atomic(path, text.encode())
