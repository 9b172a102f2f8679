"""Where a run comes from: settings, code, packages, machine and command, written down at every start."""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from kneel.engine.atomic import write_atomic

EXPERIMENT, STARTS = "experiment.yaml", "provenance"
_LARGEST_DIFF = 1 << 20  # bytes
_MOST_NAMES = 100
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE", "SLURM_JOB_ID")


def record_start(folder: Path, settings: Mapping[str, Any], device: torch.device, epochs: int) -> Path:
    """
    Write down one start of a run, first or resumed: a new file each time, so that nothing of before is changed.

    ``experiment.yaml`` gets the settings of this start, and can be trained again as it is. ``provenance`` gets
    ``start_N.json`` and, where tracked files differ from the commit, their differences as ``HASH.diff``. Files that git
    does not track, such as data, are never copied; untracked Python files are named.

    Parameters
    ----------
    folder
        The run's folder, which must exist and be this process's own.
    settings
        The experiment as it is used, JSON.
    device
        What is trained on.
    epochs
        Epochs that are over; 0 at the start of a new run.

    Returns
    -------
    Path
        ``FOLDER/provenance/start_N.json``.
    """
    write_atomic(folder / EXPERIMENT, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True).encode())
    place = folder / STARTS
    place.mkdir(exist_ok=True)
    changes, untracked = code_changes()
    code = {**code_version(), "diff": None, "untracked_python": untracked}
    if changes:
        path = place / f"{hashlib.sha256(changes).hexdigest()[:16]}.diff"
        code["diff"] = path.name
        if not path.exists():
            write_atomic(path, _cut(changes))
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "epochs": epochs,
        "command": sys.orig_argv,
        "working_folder": os.getcwd(),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "host": _host(),
        "device": _device(device),
        "code": code,
        "experiment": dict(settings),
        "packages": _packages(),
    }
    numbers = [int(path.stem.removeprefix("start_")) for path in place.glob("start_*.json")]
    path = place / f"start_{max(numbers, default=0) + 1:03}.json"
    write_atomic(path, (json.dumps(entry, indent=2) + "\n").encode())
    return path


@functools.cache
def code_changes() -> tuple[bytes, list[str]]:
    """
    Say how the code that is running differs from its commit; asked once, at the first start of a process.

    Returns
    -------
    diff
        Of the tracked files, empty where there is none or no checkout.
    untracked
        Names of Python files of the checkout that git neither tracks nor ignores.
    """
    if code_version()["commit"] is None:
        return b"", []
    here = Path(__file__).parent
    top = Path((_git(here, "rev-parse", "--show-toplevel") or b"").decode().strip())
    diff = _git(top, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD") or b""
    names = (_git(top, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or b"").decode().split("\0")
    return diff, [name for name in names if name][:_MOST_NAMES]


@functools.cache
def code_version() -> dict[str, Any]:
    """
    Say which code is running.

    Returns
    -------
    dict
        ``package``: installed version or None; ``commit``: git commit or None outside a checkout; ``dirty``:
        whether tracked files differ from it; ``torch``: its version.
    """
    here = Path(__file__).resolve()
    version: dict[str, Any] = {"package": None, "commit": None, "dirty": None, "torch": torch.__version__}
    # importlib.metadata.packages_distributions would tell, and reads the list of every installed file: a second or more
    for each in importlib.metadata.distributions():
        if __name__.partition(".")[0] in (each.read_text("top_level.txt") or "").split():
            version["package"] = each.version
            break
    # An installed copy may lie inside somebody else's checkout: that commit would say nothing about this code.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None:
        version["commit"] = (_git(here.parent, "rev-parse", "HEAD") or b"").decode().strip() or None
        version["dirty"] = bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no"))
    return version


def _git(folder: Path, *words: str) -> bytes | None:
    try:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no checkout, or a checkout of another user


def _cut(changes: bytes) -> bytes:
    if len(changes) <= _LARGEST_DIFF:
        return changes
    return changes[:_LARGEST_DIFF] + f"\n... cut here, {len(changes)} bytes in all\n".encode()


def _host() -> dict[str, Any]:
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"kind": device.type, "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    return {
        "kind": device.type,
        "name": found.name,
        "memory_bytes": found.total_memory,
        "capability": [found.major, found.minor],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


@functools.cache
def _packages() -> dict[str, str]:
    found = {}
    for each in importlib.metadata.distributions():
        # its name and version are in the first lines; each.name parses the whole description as an e-mail
        head = (each.read_text("METADATA") or each.read_text("PKG-INFO") or "").partition("\n\n")[0]
        facts = dict(line.split(": ", 1) for line in head.splitlines() if line.startswith(("Name: ", "Version: ")))
        if "Name" in facts:
            found[facts["Name"]] = facts.get("Version", "")
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
