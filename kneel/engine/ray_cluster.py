"""Work handed out over a Ray cluster; Ray is an extra, and loaded here only when it is asked for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOCAL = "local"


class ClusterError(RuntimeError):
    """No Ray, or no cluster at the address; says what to do."""


@dataclass(frozen=True)
class Share:
    """What one piece of work needs of a machine.

    Attributes
    ----------
    cores : float
        CPU cores.
    gpus : float
        GPUs; a part of one, such as 0.5, lets several work on one card.
    """

    cores: float = 1.0
    gpus: float = 0.0


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, and leave it at the end.

    Parameters
    ----------
    address : str
        ``"local"`` starts Ray on this machine, bound to loopback, and stops it at the end; ``"auto"`` is the cluster
        that this machine is a node of; or HOST:PORT of its head. A process that is connected already stays so.

    Yields
    ------
    module
        ``ray``.

    Raises
    ------
    ClusterError
        Ray is not installed, or nothing answers there.
    """
    if address == LOCAL:
        # the switch that makes Ray stay on loopback, whatever its name says; read when Ray is loaded
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises all kinds, plain Exception too
        hint = "" if address == LOCAL else "; `ray start --head` starts one"
        raise ClusterError(f"no Ray cluster at {address}: {error}{hint}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """Return the module ``ray``; it sends no statistics of use.

    Raises
    ------
    ClusterError
        It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # GPUs are hidden from work that asks for none, as Ray is going to do no longer by itself
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(f"--ray needs Ray ({error}): pip install '.[ray]' in the checkout") from error


def slots(share: Share) -> int:
    """Return how many pieces of work the nodes of now can do at once.

    Raises
    ------
    ClusterError
        No node has room for one: Ray would wait for such a node for ever.
    """
    nodes = [node["Resources"] for node in load_ray().nodes() if node["Alive"]]
    wanted = [(kind, part) for kind, part in (("CPU", share.cores), ("GPU", share.gpus)) if part]
    # a piece of work never spans nodes; the small number is for tenths that do not sum up
    fits = [min(int(have.get(kind, 0) / part + 1e-9) for kind, part in wanted) for have in nodes]
    if not any(fits):
        there = ", ".join(f"{have.get('CPU', 0):g} cores and {have.get('GPU', 0):g} GPUs" for have in nodes)
        raise ClusterError(f"no node has {share.cores:g} cores and {share.gpus:g} GPUs for one job: they have {there}")
    return sum(fits)
