"""The command ``deepknee``."""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kneel.engine.ray_cluster import ClusterError, Share, add_options, check_options
from kneel.engine.stopping import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from deepknee.batch import Summary
    from deepknee.films import Film
    from deepknee.weights import Weights

    Found = tuple[list[Film], list[tuple[Film, str]]]

# Everything else is imported when it is needed: `deepknee --help` must not wait for torch.

ATTENTION = ("gradcam", "hirescam", "integrated")
ALL_READ, NOT_WRITTEN, WRONG_USE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 128 + signal.SIGINT

DESCRIPTION = """\
Kellgren-Lawrence grades of plain knee radiographs, with the 16 landmarks of KNEEL and attention maps of DeepKnee.
Research use only. Not a medical device."""

READ_DESCRIPTION = """\
Read knee radiographs: find the knees (none, one or two a film), their 16 landmarks and their KL grade.
Research use only. Not a medical device."""

READ_EPILOG = """\
films
  DICOM files, or PNG, JPEG and TIFF pictures of 8 or 16 bits. Folders are walked all the way down, links included;
  files without extension are tried. Hidden files and the output folders of this command are left out. A file in a
  folder that cannot be read is listed as a failure, except kinds that lie beside films and are none (.csv .txt .json
  .html .xml .md .log .xlsx DICOMDIR Thumbs.db ...): they are listed with the reason "not a film" and are no failure.

outputs, all in DIR
  results.csv     one row a knee: file, side, kl (the grade of the largest probability), p0..p4, grade_set, abstain,
                  spacing_mm, spacing_kind, x0,y0..x15,y15, jsw_medial, jsw_lateral, jlca_deg, tibial_width,
                  femoral_width, length_unit, flags. grade_set holds the true grade of 9 knees in 10 that are like those
                  the networks were checked on (2;3 is KL 2 or 3; another share, if chosen so, is in the JSON);
                  abstain is yes when the set is too large to name one grade: do not use kl then. Both are empty
                  when the weights hold no threshold. Points are pixels of the film (left knees are not mirrored), an
                  integer is the centre of a pixel. spacing_mm is one number, or ROWxCOLUMN when they differ, and empty
                  when the film has none. spacing_kind: calibrated, detector (magnified), demagnified (the detector's,
                  divided by the header's magnification factor), given (by --spacing), none.
                  jsw is the minimum joint space, jlca_deg the convergence of the joint lines (+ opens laterally);
                  length_unit is mm, or "tibial width" when the film has no spacing: lengths are shares of it then.
                  Flags are joined by ";", as are the grades of a set
  report.html     one card a knee with both pictures; one file, opens offline
  failures.csv    file, reason; also films on which no knee was found
  knees/          NAME_R.json, NAME_R_landmarks.png, NAME_R_attention.png (or _L): numbers; landmarks and outlines of
                  the bones; attention with the five probabilities. Knees are drawn as on the film, upright.
                  NAME is that of the file and a code of its path, so files of the same name do not collide. The JSON
                  also holds the patient id and UIDs of the header: share it as you would share the header
  records/        one JSON a film: what is done; and the small pictures of the report
  deepknee.json   which weights and which code read the films
  Every file is complete or not there. Ctrl-C and SIGTERM finish the tables for the films that are done, now or earlier.

again
  Films that are done are skipped. Read again are: films that failed; files that changed (size or time); all films
  when the weights, the release, --spacing or --attention are others; everything with --overwrite. Films of earlier
  runs stay in the tables; if one of these was another then and they are not named now, the command refuses.

many films on many machines
  With --ray the nodes of a Ray cluster read the films. This machine and all nodes must see films, weights and DIR under
  the same paths. There are no pictures, no report and no file of a single film, which for a million films would be
  millions; read the few that you want to see without --ray, into another DIR. In DIR then are
  results.csv, failures.csv, deepknee.json   as above
  results.parquet                            the rows of results.csv, numbers in full
  shards/                                    what is done, up to 100 films a file; the tables are merged from them
  A node that dies loses nothing: what it was reading is read on another. Ctrl-C and SIGTERM drop the shards in work;
  the same command goes on with the rest.

weights
  --weights DIR is searched for snapshots (*.safetensors) all the way down; all folds of one experiment work together
  as an ensemble. Needed are joint centres (lc), landmarks (hc) and KL grades (kl), one experiment of each; where a
  folder holds several, name the right ones: --weights A --weights B. Without --weights: pretrained/ when it holds
  weights, else the newest demo run (demo/, workdir/), in the current folder, then in the checkout.
  The weights decide how much work a film is. Those that ship are one network a stage. The authors' own, converted with
  scripts/convert_kneel.py and convert_deepknee.py, are read as published: five folds a stage, two looks at each knee,
  three graders whose scores are added, Grad-CAM of each.

attention
  gradcam         as in the paper: what raised the score of the grade in each network
  hirescam        what raised the probability of the grade in all networks together; as coarse, as fast
  integrated      which pixels raised that probability, compared with the knee blurred; fine, and slow: seconds a knee
  Maps explain what the networks see of the upright knee, also where grades are averaged over turned looks.
  A map that is dark all over says that nothing speaks for the grade. Maps do not show what a reader would see.
  scripts/evaluate_attention.py measures which map fits a set of networks best.

exit status
  0 all films read   3 some failed, see failures.csv   2 wrong use (paths, options, weights)
  1 outputs cannot be written (disk full)   130 and 143 stopped by Ctrl-C or SIGTERM

examples
  deepknee read film.dcm --out reading
  deepknee read films/ --out readings --jobs 4
  deepknee read scans/*.png --spacing 0.143 --out readings --weights demo
  deepknee read films/ --out readings --ray auto --ray_cores 2"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after ``deepknee``; by default those of this process.

    Returns
    -------
    int
        Exit status.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    _check_ray(parser, options)
    # a file name may hold what the terminal cannot print
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    _share_cores()
    with sigterm_as_ctrl_c() as asked:
        try:
            status = _read(options)
        except KeyboardInterrupt:  # before the first film, or again while the tables were written
            print("deepknee read: stopped", file=sys.stderr)
            status = INTERRUPTED
    return 128 + asked[0] if asked and status == INTERRUPTED else status


def _share_cores() -> None:
    """Let torch's threads wait asleep, not spinning, unless the user has said how.

    Next to other work on the same cores spinning threads keep each other from running: a film takes many seconds
    instead of a fraction of one. On an idle machine sleeping costs up to as much again as the networks themselves.
    Must come before torch is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "deepknee", description=DESCRIPTION, formatter_class=plain, epilog=f"deepknee read\n{READ_EPILOG}"
    )
    parser.add_argument("--version", action="version", version=f"deepknee {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    read = commands.add_parser(
        "read", help="read radiographs", description=READ_DESCRIPTION, epilog=READ_EPILOG, formatter_class=plain
    )
    read.add_argument("paths", nargs="+", metavar="PATH", help="film, or folder of films")
    read.add_argument("--out", required=True, type=parse_folder, metavar="DIR", help="folder of the outputs")
    read.add_argument(
        "--weights", action="append", metavar="DIR", help="folder of trained networks; may be given several times"
    )
    read.add_argument(
        "--spacing", type=parse_spacing, metavar="MM",
        help="pixel spacing in mm, or ROWxCOLUMN; goes before that of the files",
    )  # fmt: skip
    read.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run (%(default)s)"
    )
    read.add_argument(
        "--attention", choices=ATTENTION, default="gradcam",
        help="how the maps of attention are worked out, see below (%(default)s)",
    )  # fmt: skip
    read.add_argument("--jobs", type=parse_count, default=1, metavar="N", help="films at a time (%(default)s)")
    read.add_argument("--overwrite", action="store_true", help="also read films that are done")
    add_options(read, "read the films", "a process that reads")
    return parser


def _check_ray(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what --ray would pass over in silence."""
    check_options(parser, options)
    if not options.ray:
        return
    if options.jobs != 1:
        parser.error("--jobs does not go with --ray: each node reads as many films at a time as shares fit on it")
    if options.device != "auto":
        parser.error("--device does not go with --ray: networks run on GPUs with --ray_gpus, else on CPUs")
    if options.attention != "gradcam":
        parser.error("--attention does not go with --ray, which keeps no maps")


def parse_spacing(text: str) -> tuple[float, float]:
    """Read a pixel spacing.

    Parameters
    ----------
    text : str
        One number of mm, or ``ROWxCOLUMN``.

    Returns
    -------
    (float, float)
        (row, column) in mm.

    Raises
    ------
    argparse.ArgumentTypeError
        It is neither, or not between 0.01 and 10 mm.

    Examples
    --------
    >>> parse_spacing("0.143"), parse_spacing("0.2x0.1")
    ((0.143, 0.143), (0.2, 0.1))
    """
    try:
        numbers = [float(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0.01 <= number <= 10 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: must be mm a pixel, 0.01 to 10, or ROWxCOLUMN, such as 0.2x0.1")
    return numbers[0], numbers[-1]


def parse_folder(text: str) -> Path:
    """Read the name of a folder; an empty one, as of a variable that is not set, would be the current folder.

    Parameters
    ----------
    text : str
        The name.

    Raises
    ------
    argparse.ArgumentTypeError
        It is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty: must name a folder")
    return Path(text)


def parse_count(text: str) -> int:
    """Read a number, 1 or more.

    Parameters
    ----------
    text : str
        The number.

    Raises
    ------
    argparse.ArgumentTypeError
        It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, 1 or more")
    return int(text)


def _version() -> str:
    try:
        return importlib.metadata.version("deepknee")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _read(options: argparse.Namespace) -> int:
    from deepknee.films import DIGITS, DIGITS_OF_MANY, PathsError, find_films
    from deepknee.output import FolderError
    from deepknee.pipeline import DeviceError
    from deepknee.weights import WeightsError, find_weights
    from kneel.imaging.one_writer import FolderBusy

    try:
        found = find_films(options.paths, options.out, DIGITS_OF_MANY if options.ray else DIGITS)
        weights = find_weights(options.weights)
        print(f"weights: {weights}", file=sys.stderr)
        summary = (_over_ray if options.ray else _here)(found, weights, options)
    except (PathsError, DeviceError, WeightsError, FolderError, FolderBusy, ClusterError) as error:
        print(f"deepknee read: error: {error}", file=sys.stderr)
        return WRONG_USE
    except OSError as error:
        print(f"deepknee read: error: outputs cannot be written: {error}", file=sys.stderr)
        return NOT_WRITTEN
    print(_words(summary, options.out))
    print(f"table: {options.out / 'results.csv'}" if options.ray else f"report: {options.out / 'report.html'}")
    if summary.interrupted:
        return INTERRUPTED
    return SOME_FAILED if summary.failed else ALL_READ


def _here(found: Found, weights: Weights, options: argparse.Namespace) -> Summary:
    from deepknee.batch import Overlap, read_films
    from deepknee.folder import OutputFolder
    from deepknee.pipeline import choose_device, load_reader

    device = choose_device(options.device)
    folder = OutputFolder.by(weights, options.out, options.spacing, options.attention)
    make_reader = functools.partial(load_reader, weights, device, options.attention)
    how = {"jobs": options.jobs, "overlap": Overlap.on(device), "overwrite": options.overwrite}
    return read_films(*found, folder, make_reader, **how)


def _over_ray(found: Found, weights: Weights, options: argparse.Namespace) -> Summary:
    from deepknee.pipeline import load_reader
    from deepknee.ray_read import read_over_ray
    from deepknee.shard_folder import ShardFolder

    share = Share(options.ray_cores, options.ray_gpus)
    folder = ShardFolder.by(weights, options.out.absolute(), options.spacing)
    make_reader = functools.partial(load_reader, weights.absolute(), "cuda" if share.gpus else "cpu")
    how = {"address": options.ray, "share": share, "overwrite": options.overwrite}
    return read_over_ray(*found, folder, make_reader, **how)


def _words(summary: Summary, out: Path) -> str:
    earlier = f" ({summary.earlier} earlier)" if summary.earlier else ""
    read = f"{summary.read} of {summary.films} films read{earlier}, {summary.knees} knees"
    failed = f", {summary.failed} failed: {out / 'failures.csv'}" if summary.failed else ""
    stopped = "stopped: " if summary.interrupted else ""
    repeated = f"\n{summary.repeated} films are the same pictures as others: film_repeated in {out / 'results.csv'}"
    return f"{stopped}{read}{failed}{repeated if summary.repeated else ''}"
