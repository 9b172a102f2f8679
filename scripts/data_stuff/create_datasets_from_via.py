"""Cut KNEEL's training pictures from films that were annotated in VIA (VGG Image Annotator 2), from its JSON or CSV.

A film has the file attributes kl_left and kl_right (0 to 4; of the annotated knees), and may have subject (else the
file name), knees (1 or 2 on the film; needed when one is annotated) and spacing_mm. A region has the attributes bone
(tibia, femur) and side (left, right: as it looks on the film). Of each bone the points go from the lateral to the
medial edge, 9 of the tibia and 7 of the femur, as a polyline or as points in order. See annotations/README.md.

Writes to --out what create_train_dataset_from_oai.py writes, and goes on likewise.
Exit status: 0 every knee is there, 1 some are missing (problems.csv), 2 nothing was done.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kneel.film_task import DrawnKnee, FilmTask, Problem
from kneel.imaging.schema import AnnotationError
from kneel.imaging.tags import valid_spacing
from kneel.imaging.via import ViaFilm, knees_of, read_via
from kneel.prepare_cli import add_output_arguments, run


def main() -> int:
    """Read the command line and the annotations, cut the films."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--via", type=Path, required=True, metavar="FILE", help="VIA's JSON or CSV")
    parser.add_argument(
        "--films", type=Path, required=True, metavar="DIR", help="folder that its file names start from"
    )
    parser.add_argument(
        "--spacing", type=float, metavar="MM", help="mm per pixel of films that do not say it themselves"
    )
    add_output_arguments(parser)
    given = parser.parse_args()
    if given.spacing is not None and valid_spacing((given.spacing,) * 2) is None:
        parser.error(f"--spacing is {given.spacing}: must be mm per pixel")
    try:
        tasks, problems = plan(read_via(given.via), given.films, given.spacing)
        if not tasks and not problems:
            raise AnnotationError(f"{given.via}: holds no film")
    except (AnnotationError, OSError) as error:
        print(f"create_datasets_from_via: {error}", file=sys.stderr)
        return 2
    return run("create_datasets_from_via", given, tasks, problems)


def plan(films: Sequence[ViaFilm], folder: Path, spacing_mm: float | None) -> tuple[list[FilmTask], list[Problem]]:
    """Understand every film's annotations; those that cannot be used become problems.

    Parameters
    ----------
    films : sequence of ViaFilm
        What VIA exported.
    folder : Path
        Where their file names start from.
    spacing_mm : float or None
        For films that neither have the attribute nor a header that says it.

    Returns
    -------
    tasks : list of FilmTask
        One a subject.
    problems : list of Problem
        Films that cannot be used, with why.
    """
    tasks: dict[str, FilmTask] = {}
    problems = []
    for film in films:
        path = folder / film.filename
        try:
            found = knees_of(film)
        except AnnotationError as error:
            problems.append(Problem("", "", str(path), "missing", str(error)))
            continue
        sides = "".join(sorted(knee.side for knee in found.knees))
        if found.subject_id in tasks:
            text = f"subject {found.subject_id} already has the film {tasks[found.subject_id].path}: one film a subject"
            problems.append(Problem(found.subject_id, sides, str(path), "missing", text))
        elif not path.is_file():
            problems.append(Problem(found.subject_id, sides, str(path), "missing", "no such film"))
        else:
            knees = tuple(DrawnKnee(knee.side, knee.kl, knee.points) for knee in found.knees)
            if_none = (spacing_mm, spacing_mm) if spacing_mm is not None and found.spacing_mm is None else None
            tasks[found.subject_id] = FilmTask(
                found.subject_id, path, knees, found.spacing_mm or "header", if_none, found.bilateral
            )
    return list(tasks.values()), problems


if __name__ == "__main__":
    sys.exit(main())
