#!/usr/bin/env python
"""Run every experiment of a folder, all folds, one at a time on each GPU (or one after the other on the CPU).

A run that is complete is skipped by resuming it at its end, a broken one goes on after its last epoch. What each
training prints goes to WORKDIR/NAME/fold_K/train.log. Exit status: 0 all done, 1 some failed, 2 wrong use.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import torch
from termcolor import colored
from train import read_experiment

from kneel.engine.config import ConfigError

TRAIN = Path(__file__).with_name("train.py")


@dataclass(frozen=True)
class Job:
    """One fold of one experiment; `after` is the experiment whose weights it starts from."""

    experiment: Path
    fold: int
    after: str | None

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.experiment.stem


def main() -> int:
    """Run the jobs; see the module's text for the exit status."""
    arguments = parse()
    try:
        ordered = waves(plan(arguments.experiments, arguments.folds))
    except (ConfigError, FileNotFoundError) as error:
        print(f"experiments_runner: {error}", file=sys.stderr)
        return 2
    devices = visible_gpus() or ["cpu"]
    where = "the CPU" if devices == ["cpu"] else f"{len(devices)} GPU(s)"
    print(f"{sum(map(len, ordered))} training(s) on {where}", flush=True)
    failed: dict[Job, str] = {}
    for wave in ordered:
        broken = {job.name for job in failed}
        failed |= {job: f"not begun, {job.after} failed" for job in wave if job.after in broken}
        failed |= run_wave([job for job in wave if job not in failed], devices, arguments.data_root, arguments.workdir)
    for job, reason in failed.items():
        print(colored(f"failed: {job.name}, fold {job.fold}: {reason}", "red"), file=sys.stderr)
    return 1 if failed else 0


def visible_gpus() -> list[str]:
    """Name the GPUs as CUDA_VISIBLE_DEVICES does: a scheduler may have given us the third and the fourth."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--experiments", type=Path, nargs="+", required=True, metavar="PATH", help="experiment files or folders of them"
    )
    parser.add_argument("--data_root", type=Path, required=True, metavar="DIR", help="where the data are")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="where all runs go")
    parser.add_argument(
        "--folds", type=int, nargs="+", metavar="K", help="only these folds (default: all that the data have)"
    )
    return parser.parse_args()


def plan(paths: Sequence[Path], folds: Sequence[int] | None) -> list[Job]:
    """List the jobs; every experiment file is read now, so that a mistake shows before the first training.

    A file named ``base.yaml`` is what others build on and no experiment of its own.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.y*ml")) if path.is_dir() else [path])]
    files = [file for file in files if file.name != "base.yaml"]
    if not files:
        raise FileNotFoundError(f"no experiment (*.yaml) in {', '.join(map(str, paths))}")
    jobs = []
    for file in files:
        experiment = read_experiment(file)
        # data with a validation set of their own are trained on once
        all_folds = range(1 if getattr(experiment.data, "val", None) else experiment.folds)
        after = getattr(experiment, "transfer", None)
        jobs += [Job(file, fold, after) for fold in all_folds if folds is None or fold in folds]
    if not jobs:
        raise ConfigError(f"--folds {' '.join(map(str, folds or ()))}: none of the experiments has such a fold")
    return jobs


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Put experiments that start from another's weights into a wave after it."""
    left, ordered = list(jobs), []
    while left:
        names = {job.name for job in left}
        ready = [job for job in left if job.after not in names or job.after == job.name]
        if not ready:
            raise ConfigError(f"{', '.join(sorted(names))}: each waits for the other's weights (transfer)")
        ordered.append(ready)
        left = [job for job in left if job not in ready]
    return ordered


def run_wave(jobs: Sequence[Job], devices: Sequence[str], data_root: Path, workdir: Path) -> dict[Job, str]:
    """Run jobs that do not wait for each other; return those that failed, each with why.

    Most mistakes show in the first epoch and are the same in every fold: they are told once.
    """
    free: Queue[str] = Queue()
    hopeless: dict[Path, int] = {}  # experiments whose fold did not come through its first epoch
    for device in devices:
        free.put(device)

    def run(job: Job) -> str | None:
        device = free.get()
        try:
            if job.experiment in hopeless:
                return (
                    f"not begun, fold {hopeless[job.experiment]} failed in its first epoch; --folds {job.fold} tries it"
                )
            reason = run_job(job, device, data_root, workdir)
            if reason is not None and not (folder_of(job, workdir) / "last.safetensors").exists():
                hopeless[job.experiment] = job.fold
            return reason
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        return {job: why for job, why in zip(jobs, pool.map(run, jobs), strict=True) if why is not None}


def folder_of(job: Job, workdir: Path) -> Path:
    """Folder of one fold."""
    return workdir / job.name / f"fold_{job.fold}"


def run_job(job: Job, device: str, data_root: Path, workdir: Path) -> str | None:
    """Train one fold in a process of its own; return its last words and its log when it fails."""
    log = folder_of(job, workdir) / "train.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
    command = [sys.executable, str(TRAIN), "--experiment", str(job.experiment), "--data_root", str(data_root)]
    command += ["--workdir", str(workdir), "--fold", str(job.fold), "--resume"]
    title = f"{job.name}, fold {job.fold}, on {device}"
    print(f"start  {title}  ({log})", flush=True)
    # alone on the CPU the training may draw its progress on the terminal; several at once would overwrite it
    alone = device == "cpu" and sys.stderr.isatty()
    with log.open("a", encoding="utf-8") as stream:
        code = subprocess.run(command, env=environment, stdout=stream, stderr=None if alone else stream).returncode
    last = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
    print(f"{colored('done', 'green') if code == 0 else colored('failed', 'red')}   {title}: {last}", flush=True)
    return None if code == 0 else f"{last} ({log})"


if __name__ == "__main__":
    sys.exit(main())
