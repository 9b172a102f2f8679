"""Cut KNEEL's training pictures from the OAI download: 140 mm ROIs at 0.3 mm and whole films at 1 mm.

Of contents.csv those rows are taken whose ParticipantID is in the annotation table, whose Folder begins with 0. (the
baseline visit, which the annotations are of) and whose SeriesDescription is "Bilateral PA Fixed Flexion Knee" (in
whatever case); of several such films of a subject one of the earliest date that is there. A film of a later visit never
stands in.
The film is FOLDER/001. Millimetres are the detector's (ImagerPixelSpacing, else PixelSpacing), as in KNEEL's table.

Writes to --out, which then is the DATA_ROOT of lc_experiments/ and hc_experiments/:
  hc_rois/{subject}_{kl}_{side}.png   466 x 466, left knees mirrored
  lc_films/{subject}.png              both knees at 1 mm
  bf_landmarks_1_0.3.csv              the knees that are there, in KNEEL's format
  knees.csv, problems.csv             one row a knee; what is missing and what was decided, by subject
Started again it goes on where it stopped. Exit status: 0 every knee is there, 1 some are missing, 2 nothing was done.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from kneel.film_task import FilmTask, Problem
from kneel.imaging.oai import ContentsError, OaiFilm, choose_baseline_film, read_contents
from kneel.imaging.schema import AnnotationError, KneeAnnotation, read_annotations
from kneel.prepare_cli import add_output_arguments, run


def main() -> int:
    """Read the command line and tables, cut the films."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--oai", type=Path, nargs="+", required=True, metavar="DIR", help="release folders, each with a contents.csv"
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="CSV", help="KNEEL's bf_landmarks_1_0.3.csv")
    add_output_arguments(parser)
    given = parser.parse_args()
    try:
        tasks, problems = plan(given.oai, given.annotations)
    except (ContentsError, AnnotationError, OSError) as error:
        print(f"create_train_dataset_from_oai: {error}", file=sys.stderr)
        return 2
    return run("create_train_dataset_from_oai", given, tasks, problems)


def plan(roots: Sequence[Path], table: Path) -> tuple[list[FilmTask], list[Problem]]:
    """Match the annotated subjects with the films of one or more releases.

    Parameters
    ----------
    roots : sequence of Path
        Release folders.
    table : Path
        Annotations in KNEEL's format.

    Returns
    -------
    tasks : list of FilmTask
        One a subject whose film is there, in the order of the table.
    problems : list of Problem
        Subjects without a film, and choices between several.

    Raises
    ------
    ContentsError, AnnotationError, OSError
        A table cannot be used.
    """
    subjects: dict[str, list[KneeAnnotation]] = defaultdict(list)
    for knee in read_annotations(table):
        if any(other.side == knee.side for other in subjects[knee.subject_id]):
            raise AnnotationError(f"{table}: knee {knee.subject_id} {knee.side} stands there twice")
        subjects[knee.subject_id].append(knee)
    if not subjects:
        raise AnnotationError(f"{table}: holds no knee")
    films: dict[str, list[OaiFilm]] = defaultdict(list)
    for film in (film for root in roots for film in read_contents(root)):
        films[film.subject_id].append(film)
    tasks, problems = [], []
    for subject, knees in subjects.items():
        choice = choose_baseline_film(films[subject])
        if choice.film is not None:
            tasks.append(FilmTask(subject, choice.film.path, tuple(knees), spacing="detector"))
        if choice.remark:
            sides = "".join(sorted(knee.side for knee in knees))
            name = "" if choice.film is None else str(choice.film.path)
            problems.append(Problem(subject, sides, name, "note" if choice.film else "missing", choice.remark))
    return tasks, problems


if __name__ == "__main__":
    sys.exit(main())
