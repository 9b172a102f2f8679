"""Cut KL grading data from the OAI or MOST download: one ROI a knee, and a table that scripts/train.py trains on.

Research use only. Not a medical device.

  --cohort oai   films of contents.csv (FOLDER/001), readings kxr_sq_bu00 (.sas7bdat, .txt or .csv)
  --cohort most  films at SUBJECT_LETTERS/V0/STUDY/PA10/FILM, readings mostv01235xray

Knees are where DeepKnee's authors' lists have them (--split), or where our own networks find them (without it). ROIs
are 140 mm wide, in the detector's millimetres, on 350 pixels, left knees mirrored. Cut training and validation data
into folders of their own, and name these in the experiment (data: {source: graded_rois, train: FOLDER, val: FOLDER}).

Writes to --out:
  rois/{kl}/{subject}_V{visit}_{side}.png   the knees
  knees.csv                                 one row a knee: grade, joint, spacing, film, landmarks if networks found it
  problems.csv                              every knee that is not there, with the reason, and decisions
Not there are knees without a KL grade of 0 to 4 (prostheses, codes of missing values), without a film, a PA view or a
box, on a side that the film contradicts, and copies; knees asked for = knees written + knees listed, or it stops.
Started again it goes on where it stopped. Exit status: 0 done, 1 films are missing or unreadable, 2 nothing was done.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepknee.boxes import ListError, read_lists
from deepknee.downloads import OPEN, DownloadError
from deepknee.grading_film import Joint, Locate, RoiSize
from deepknee.grading_plan import Plan, plan_all, plan_listed
from deepknee.grading_set import PROBLEMS, GradingSet, prepare_grading_set
from deepknee.readings import COLUMNS, Columns, ReadingsError, read_readings
from deepknee.roi_row import KNEES
from kneel.finding import FINDS
from kneel.imaging.finished import SameName, code_digest
from kneel.imaging.oai import ContentsError
from kneel.imaging.preparing import Problem, exit_status, tell_problem
from kneel.imaging.radiograph import Radiograph

NAME = "create_grading_dataset"
SHOWN = 20  # problems of a kind on the terminal


class NetworksError(ValueError):
    """Networks that cannot be had."""


REFUSALS = (ContentsError, DownloadError, ReadingsError, ListError, NetworksError, SameName, argparse.ArgumentTypeError)


class Networks:
    """Finds knees with our own networks, which every process loads for itself on first use.

    torch is imported here and not above: without networks no process needs it.
    """

    def __init__(self, folders: list[Path] | None, device: str) -> None:
        from deepknee.pipeline import DeviceError, choose_device
        from deepknee.weights import WeightsError, find_weights

        try:
            weights, self.device = find_weights(folders), choose_device(device)
        except (WeightsError, DeviceError) as error:
            raise NetworksError(str(error)) from error
        self.lc, self.hc = weights.paths("lc"), weights.paths("hc")
        digests = [snapshot.sha256 for snapshot in weights.snapshots if snapshot.task in ("lc", "hc")]
        self.id = hashlib.sha256("\n".join([*sorted(digests), code_digest(FINDS)]).encode()).hexdigest()[:16]
        self.localizer: Any = None

    def __call__(self, radiograph: Radiograph) -> list[Joint]:
        """Return the knees of a film."""
        if self.localizer is None:
            import torch

            from kneel.localize import KneeLocalizer

            if multiprocessing.parent_process() is not None:
                torch.set_num_threads(1)  # there is a process for every core
            self.localizer = KneeLocalizer.from_snapshots(self.lc, self.hc, device=self.device)
        return [
            Joint(knee.side, knee.center, knee.spacing_mm, knee.landmarks, knee.confidence, knee.flags)
            for knee in self.localizer.locate(radiograph)
        ]


def main() -> int:
    """Read the command line, cut the films."""
    given = parse()

    def prepare() -> bool:
        size = RoiSize(given.roi_mm, given.roi_px)
        if size.mm <= 0 or size.px < 1:
            raise argparse.ArgumentTypeError(f"--roi_mm is {size.mm}, --roi_px {size.px}: must be positive")
        locate: Locate | None = None if given.split else Networks(given.weights, given.device)
        done = prepare_grading_set(given.out, plan(given), size=size, locate=locate, jobs=given.jobs, progress=True)
        tell(done, given.out)
        return not done.fixable

    return exit_status(NAME, given.jobs, prepare, REFUSALS)


def plan(given: argparse.Namespace) -> Plan:
    """Match films, readings and lists."""
    known = COLUMNS[given.cohort]
    columns = Columns(
        given.id_column or known.subject,
        given.grade_column or known.grade,
        given.side_column or known.side,
        given.project_column or known.project,
        needs_project=given.project_column is not None,
    )
    readings = read_readings(given.readings, columns, project=given.project, taken=dict(given.take))
    listed = read_lists(given.split, given.poor) if given.split else None
    download = OPEN[given.cohort](given.download)
    if listed is None:
        return plan_all(download, readings)
    planned = plan_listed(download, listed, readings)
    return planned if given.poor else replace(planned, problems=(*planned.problems, *poor_beside(given.split)))


def poor_beside(lists: list[Path]) -> list[Problem]:
    """Note the lists of bad boxes that lie beside the lists of films, as MOST_train_poor_detections.csv does."""
    found = [path for films in lists for path in sorted(films.parent.glob(f"{glob.escape(films.stem)}_poor*"))]
    text = "bad boxes by its name, and not given: they are cut as the others are; --poor with this file leaves them out"
    return [Problem("", "", str(path), "note", text) for path in found]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cohort", choices=sorted(OPEN), required=True, help="whose layout the download and the readings have")
    add(
        "--download",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="OAI: release folders; MOST: the folder of subjects",
    )
    add(
        "--readings",
        type=Path,
        nargs="+",
        required=True,
        metavar="TABLE",
        help="semi-quantitative readings, SAS or text; several visits, several tables",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where the data set goes")
    where = parser.add_argument_group("where the knees are")
    where.add_argument(
        "--split",
        type=Path,
        nargs="+",
        metavar="LIST",
        help="the authors' lists: path and both boxes a line; only these films are asked for",
    )
    where.add_argument(
        "--poor", type=Path, metavar="LIST", help="with one --split: its bad boxes, one a line, such as 9295R"
    )
    where.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="without --split: folders of networks (default: as deepknee read)",
    )
    where.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the networks run (default: %(default)s)",
    )
    table = parser.add_argument_group("columns of the readings, in whatever case")
    table.add_argument("--id_column", metavar="NAME", help="subject (default: OAI ID, MOST MOSTID)")
    table.add_argument(
        "--grade_column",
        metavar="NAME",
        help="KL grade; {visit}: digits, {side}: L or R (default: OAI V{visit}XRKL, MOST V{visit}X{side}KL)",
    )
    table.add_argument(
        "--side_column", metavar="NAME", help="side, if a row is one knee: 1 or R, 2 or L (default: OAI SIDE)"
    )
    table.add_argument("--project_column", metavar="NAME", help="reading project (default: OAI READPRJ)")
    table.add_argument(
        "--project", metavar="N", help="take readings of this project only (default: all, 15 before others)"
    )
    table.add_argument(
        "--take",
        type=code,
        action="append",
        default=[],
        metavar="CODE=KL",
        help="take a code of the readings as a grade, such as 1.9=1",
    )
    add("--roi_mm", type=float, default=140.0, help="width of a ROI in mm (default: %(default)g)")
    add("--roi_px", type=int, default=350, help="the same in pixels (default: %(default)s)")
    add("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    given = parser.parse_args()
    if given.poor and not given.split:
        parser.error("--poor counts the lines of a --split, and there is none")
    if given.weights and given.split:
        parser.error("--split says where the knees are, and --weights would find them: choose one")
    return given


def code(text: str) -> tuple[str, int]:
    """Read CODE=KL."""
    left, _, right = text.partition("=")
    if not left or right not in ("0", "1", "2", "3", "4"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a code, = and a grade of 0 to 4, such as 1.9=1")
    return left, int(right)


def tell(done: GradingSet, out: Path) -> None:
    """Say how many knees there are, how many are not and why, and the first problems."""
    notes = [problem for problem in done.problems if problem.kind == "note"]
    for problem in [*done.missing[:SHOWN], *notes[:SHOWN]]:
        tell_problem(problem)
    subjects = len({row.subject_id for row in done.rows})
    print(f"{len(done.rows)} of {done.asked} knees of {subjects} subjects in {out / KNEES}")
    print(", ".join(f"KL {kl}: {sum(row.kl == kl for row in done.rows)}" for kl in range(5)))
    print(f"{done.skipped} films were finished before")
    for reason, count in done.reasons.most_common():
        print(f"not there, {reason}: {count}")
    if done.problems:
        print(f"listed: {len(done.missing)} knees, {len(notes)} notes; all of them in {out / PROBLEMS}")


if __name__ == "__main__":
    sys.exit(main())
