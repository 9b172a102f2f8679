"""What a runner says before it begins and when it has ended."""

from collections.abc import Sequence

from kneel.engine.queue.jobs import Job, PlanError
from kneel.engine.queue.runner import Report
from kneel.engine.queue.state import LOG, last_lines, refusals


def refuse(jobs: Sequence[Job]) -> None:
    """
    Refuse jobs whose folder holds a run with other settings or of other data, before anything is started.

    Parameters
    ----------
    jobs
        All jobs.

    Raises
    ------
    PlanError
        Naming every such job with what differs; folds that differ in the same are named together.
    """
    found: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in jobs:
        if differences := tuple(refusals(job)):
            found.setdefault((job.name, differences), []).append(job)
    if found:
        lines = ["stored runs of the same name have other settings or other data; nothing was started"]
        for (name, differ), same in found.items():
            folds = " ".join(str(job.fold) for job in same)
            lines += [f"  {name}, fold {folds}  ({same[0].folder.parent})", *(f"    {line}" for line in differ)]
        lines.append("Give the experiment another name or another --workdir, or move these folders away.")
        raise PlanError("\n".join(lines))


def describe(report: Report, lines: int = 10) -> str:
    """
    Say what is not done, and why.

    Parameters
    ----------
    report
        From `kneel.engine.queue.runner.Runner.run`.
    lines
        Last lines of the log of what failed; folds that failed for the same reason are told once.

    Returns
    -------
    str
        Nothing when all is done.
    """
    words = []
    same: dict[tuple[str, str], list[Job]] = {}
    for job, reason in sorted(report.failed.items(), key=lambda item: (item[0].name, item[0].fold)):
        same.setdefault((job.name, reason), []).append(job)
    for (name, reason), jobs in same.items():
        words.append(f"failed: {name}, fold {' '.join(str(job.fold) for job in jobs)}: {reason}")
        words.append(f"  the end of {jobs[0].folder / LOG}:")
        words += [f"    {line}" for line in last_lines(jobs[0].folder, lines)]
    words += [f"failed: {job}: {reason}" for job, reason in report.blocked.items()]
    if report.left:
        why = "stopped; start again to go on" if report.stopped_by else "left to other runners"
        words.append(f"{len(report.left)} job(s) not done: {why}")
    return "\n".join(words)
