#!/usr/bin/env python
"""Run every experiment of a folder, all folds and seeds, one job on each GPU (on a CPU: one after the other).

Started again it goes on: what is done is skipped, what was interrupted or failed resumes after its last epoch. Any
number of runners, on any machines that share WORKDIR, work on one queue; no job is run twice. Ctrl-C stops all jobs of
this one. Each job's log, state and lock are in WORKDIR/NAME/fold_K (train.log, job.json, .lock); docs/experiments.md
tells more.

With --ray the jobs run on the nodes of a Ray cluster, which see the same WORKDIR, data, checkout and Python under the
same paths; a job whose node dies resumes on another. docs/cluster.md says how to start one.

These options may be given as environment variables too: DATA_ROOT, WORKDIR, EXPERIMENTS (several: separated by ":"),
GPUS, PER_GPU, FOLDS, SEEDS, RETRIES, RAY (lists: separated by spaces).

Exit status: 0 all done (or, with --no_wait, left to other runners), 1 some failed, 2 wrong use, or a stored run of the
same name has other settings or other data; 130 and 143 stopped by Ctrl-C or SIGTERM.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kneel.engine.config import ConfigError
from kneel.engine.queue.jobs import Job, PlanError
from kneel.engine.queue.live import display
from kneel.engine.queue.report import describe, refuse
from kneel.engine.queue.runner import Options, Runner
from kneel.engine.queue.workers import Slot, Start, slots, start_job
from kneel.engine.ray_cluster import ClusterError, Share, add_options, check_options, connected
from kneel.engine.ray_cluster import slots as cluster_slots

if TYPE_CHECKING:
    from train import Experiment

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "scripts" / "train.py"


def main() -> int:
    """Run the jobs; see the module's text for the exit status."""
    arguments = parse()
    with ExitStack() as stack:
        try:
            jobs = plan(arguments)
            refuse(jobs)
            places, start = stack.enter_context(where(arguments))
            names = ", ".join(dict.fromkeys(map(str, places)))
            print(f"{len(jobs)} training(s), {len(places)} at once, on {names}", flush=True)
            options = Options(arguments.retries, not arguments.no_wait)
            runner = Runner(jobs, places, display(), options, start=start)
        except (ConfigError, PlanError, ClusterError, FileNotFoundError) as error:
            print(f"experiments_runner: {error}", file=sys.stderr)
            return 2
        report = runner.run()
    if words := describe(report):
        print(words, file=sys.stderr)
    if report.stopped_by is not None:
        return 128 + report.stopped_by
    return 1 if report.failed else 0


@contextmanager
def where(arguments: argparse.Namespace) -> Iterator[tuple[list[Slot], Start]]:
    """Find the places for jobs, and what starts one there: on this machine, or on a cluster."""
    if not arguments.ray:
        yield slots(chosen_devices(arguments.gpus), arguments.per_gpu), start_job
        return
    if arguments.gpus:
        raise ConfigError("--gpus does not go with --ray, which chooses among those of the cluster: --ray_gpus N a job")
    from kneel.engine.queue.ray_jobs import RayStart

    share = Share(arguments.ray_cores, arguments.ray_gpus)
    with connected(arguments.ray):
        yield [Slot(f"ray {number}") for number in range(cluster_slots(share))], RayStart(share)


def chosen_devices(asked: Sequence[str]) -> list[str]:
    """Return the devices that are asked for, after a look whether they are there; all GPUs where none is named.

    Names are those of CUDA_VISIBLE_DEVICES: a scheduler may have given us the third and the fourth. UUIDs that the
    variable does not list are left to CUDA.
    """
    if list(asked) == ["cpu"]:
        return ["cpu"]
    import torch

    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = ([name.strip() for name in given.split(",")] if given else [str(number) for number in range(count)])[:count]
    unknown = [name for name in asked if name not in names and (not count or not name.startswith(("GPU-", "MIG-")))]
    if unknown:
        there = f"there are {', '.join(names)}" if names else "torch finds no GPU here"
        limit = f" (CUDA_VISIBLE_DEVICES={given})" if given is not None else ""
        raise ConfigError(f"--gpus {' '.join(asked)}: not {', '.join(unknown)}, {there}{limit}; or cpu alone")
    return list(asked) or names or ["cpu"]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and the environment for what it leaves out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given, words = os.environ.get, lambda name: os.environ.get(name, "").replace(",", " ").split()
    todo = next((path for path in (Path("hc_experiments_todo"), ROOT / "hc_experiments_todo") if path.is_dir()), None)
    parser.add_argument(
        "--experiments",
        type=Path,
        nargs="+",
        metavar="PATH",
        default=named_experiments(given("EXPERIMENTS", "")) or [todo or ROOT / "hc_experiments"],
        help="experiment files or folders of them (default: hc_experiments_todo where it exists, else hc_experiments)",
    )
    root, workdir = given("DATA_ROOT"), given("WORKDIR") or "workdir"
    parser.add_argument(
        "--data_root", type=Path, required=not root, default=root, metavar="DIR", help="where the data are"
    )
    parser.add_argument(
        "--workdir", type=Path, default=workdir, metavar="DIR", help="where all runs go (default: workdir)"
    )
    parser.add_argument("--folds", type=int, nargs="+", default=words("FOLDS"), metavar="K", help="only these folds")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=words("SEEDS"),
        metavar="S",
        help="each of these seeds, in runs NAME_seed_S",
    )
    parser.add_argument(
        "--gpus",
        nargs="+",
        default=words("GPUS"),
        metavar="GPU",
        help="GPUs to use, or cpu (default: all that are visible)",
    )
    parser.add_argument(
        "--per_gpu",
        type=int,
        default=given("PER_GPU") or 1,
        metavar="N",
        help="jobs at once on each GPU, or on the CPU, which they share (default: 1)",
    )
    parser.add_argument(
        "--retries", type=int, default=given("RETRIES") or 1, metavar="N", help="tries more of what fails (default: 1)"
    )
    add_options(parser, "run the jobs", "a job", given("RAY"))
    parser.add_argument("--no_wait", action="store_true", help="end when only jobs of other runners are left")
    arguments = parser.parse_args(argv)
    try:  # argparse converts no lists that are defaults
        arguments.folds, arguments.seeds = ([int(word) for word in part] for part in (arguments.folds, arguments.seeds))
    except ValueError as error:
        parser.error(f"FOLDS, SEEDS: {error}")
    if arguments.workdir.exists() and not arguments.workdir.is_dir():
        parser.error(f"--workdir {arguments.workdir}: is a file; must be a folder")
    if arguments.per_gpu < 1 or arguments.retries < 0:
        parser.error("--per_gpu must be 1 or more, --retries 0 or more")
    arguments.gpus = [name for words_ in arguments.gpus for name in words_.split(",") if name]
    if arguments.ray and arguments.per_gpu != 1:
        parser.error("--per_gpu does not go with --ray: several jobs share a card of the cluster by --ray_gpus 0.5")
    check_options(parser, arguments)
    return arguments


def named_experiments(text: str) -> list[Path]:
    """Split EXPERIMENTS at its colons, unless it is one path as it stands."""
    return [Path(text)] if text and Path(text).exists() else [Path(part) for part in text.split(":") if part]


def plan(arguments: argparse.Namespace) -> list[Job]:
    """List the jobs; every experiment file is read now, so that a mistake shows before the first training.

    A file named ``base.yaml`` is what others build on and no experiment of its own.
    """
    # here, not above: torch takes its time, --help must not
    from train import read_experiment, table_digests, with_seed

    paths = arguments.experiments
    files = [file for path in paths for file in (sorted(path.glob("*.y*ml")) if path.is_dir() else [path])]
    files = [file for file in files if file.name != "base.yaml"]
    if not files:
        raise FileNotFoundError(f"no experiment (*.yaml) in {', '.join(map(str, paths))} (several: EXPERIMENTS=A:B)")
    jobs = []
    for file in files:
        read = read_experiment(file)
        for seed in arguments.seeds or [None]:
            name, experiment = with_seed(file.stem, read, seed)
            # data with a validation set of their own are trained on once
            all_folds = range(1 if getattr(experiment.data, "val", None) else experiment.folds)
            folds = [fold for fold in all_folds if not arguments.folds or fold in arguments.folds]
            tables = table_digests(experiment, arguments.data_root)
            jobs += [make_job(arguments, file, name, experiment, fold, seed, tables) for fold in folds]
    if not jobs:
        raise ConfigError(f"--folds {' '.join(map(str, arguments.folds))}: none of the experiments has such a fold")
    return jobs


def make_job(
    arguments: argparse.Namespace,
    file: Path,
    name: str,
    experiment: Experiment,
    fold: int,
    seed: int | None,
    tables: Mapping[str, str],
) -> Job:
    """Describe one training for the queue, which knows nothing of tasks."""
    workdir = arguments.workdir.absolute()
    command = [sys.executable, str(TRAIN), "--experiment", str(file.absolute()), "--fold", str(fold), "--resume"]
    command += ["--data_root", str(arguments.data_root.absolute()), "--workdir", str(workdir)]
    settings = experiment.model_dump(mode="json", exclude={"training"})
    training = experiment.training
    return Job(
        name,
        fold,
        workdir / name / f"fold_{fold}",
        (*command, *(("--seed", str(seed)) if seed is not None else ())),
        epochs=training.epochs,
        monitor=training.monitor,
        after=f"{experiment.transfer}/fold_{fold}" if experiment.transfer else None,
        settings={"task": experiment.task, "experiment": settings, "training": training.model_dump(mode="json")},
        tables=tables,
        products=("best.safetensors", "last.safetensors", "metrics.csv"),
        workload=pixels(experiment),
    )


def pixels(experiment: Experiment) -> float:
    """Tell roughly how long an epoch is: the pixels of a picture, as often as the network sees it."""
    if hasattr(experiment, "roi"):
        width, height = experiment.roi.size
        return float(width * height * (2 if experiment.mixup else 1))
    return float(experiment.geometry.crop**2)


if __name__ == "__main__":
    sys.exit(main())
