"""Work handed out over a Ray cluster; Ray is an extra, and loaded here only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOCAL = "local"
_REACH_SECONDS = 10.0


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


def add_options(parser: argparse.ArgumentParser, do: str, piece: str, address: str | None = None) -> None:
    """Give a command the options ``--ray``, ``--ray_cores`` and ``--ray_gpus``.

    Parameters
    ----------
    parser : ArgumentParser
        Of the command.
    do : str
        What is done on the cluster, such as "run the jobs".
    piece : str
        What has a share, such as "a job".
    address : str, optional
        The cluster where none is named.
    """
    where = "on the Ray cluster at HOST:PORT, or auto (this machine is one of its nodes), or local"
    parser.add_argument("--ray", default=address, metavar="ADDRESS", help=f"{do} {where}")
    parser.add_argument(
        "--ray_cores", type=float, default=1.0, metavar="N", help=f"CPU cores of {piece} on it (default: 1)"
    )
    parser.add_argument(
        "--ray_gpus", type=float, default=0.0, metavar="X", help=f"GPUs of {piece} on it, such as 1 or 0.5 (default: 0)"
    )


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse shares that cannot be, by the parser's own error, and shares without a cluster.

    Parameters
    ----------
    parser : ArgumentParser
        Which `add_options` has seen.
    options : Namespace
        What it read.
    """
    if not options.ray and (options.ray_cores, options.ray_gpus) != (1.0, 0.0):
        parser.error("--ray_cores and --ray_gpus act only with --ray")
    if options.ray_cores <= 0 or options.ray_gpus < 0 or (options.ray_gpus > 1 and options.ray_gpus % 1):
        parser.error("--ray_cores must be above 0, --ray_gpus a part of 1 (several on a card) or a whole number")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, and leave it at the end.

    Parameters
    ----------
    address : str
        ``"local"`` starts Ray on this machine, bound to loopback, and stops it at the end; ``"auto"`` is the cluster
        that this machine is a node of; or HOST:PORT of its head. A process that is connected already stays so.
        SIGTERM does what it did before.

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
    _check_reachable(address)
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        with _sigterm_as_it_was():
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


@contextmanager
def _sigterm_as_it_was() -> Iterator[None]:
    """Keep what SIGTERM does: Ray, when it connects, sets handlers that end the process in the middle of its work."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:  # it came meanwhile, and Ray's handler took it
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is not before:  # never so in a thread, where nobody may set one
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Refuse HOST:PORT where nothing listens: Ray itself tries for minutes, deaf to Ctrl-C."""
    place = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}; `ray start --head` starts one") from error


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
