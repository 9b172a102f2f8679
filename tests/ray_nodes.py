"""A Ray cluster of several nodes on this machine, for tests: small, on loopback, and gone at the end."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

# read when Ray is loaded, or its processes start
os.environ.update(
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # keeps Ray on loopback
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",  # else Ray writes a token into the user's home
    RAY_memory_monitor_refresh_ms="0",  # what else the machine does must not get our processes killed
    RAY_DASHBOARD_STARTUP_TIMEOUT_S="300",
    RAY_worker_niceness="0",  # else tests wait behind everything else on a busy machine
)

_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
# whose ports Ray would choose when they have started, which it waits 15 s for: on a busy machine too short
_AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


class Nodes:
    """Two raylets with a core each; more can be added, and any but the first killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # without what no test needs: every process less is two seconds less
        less = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        self._cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args={**_node(), **less}))
        self.address = self._cluster.address
        self.add()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect this process to the cluster."""
        import ray

        ray.init(address=self.address, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()

    def add(self):
        """Start a node and wait until the cluster knows it."""
        return _patiently(lambda: self._cluster.add_node(**_node()))

    def kill(self, node) -> None:
        """Kill the raylet of a node with SIGKILL, as a power cut would."""
        node.kill_raylet()

    def stop(self) -> None:
        """End all processes."""
        self._cluster.shutdown()


def _node() -> dict[str, Any]:
    with ExitStack() as held:
        ports = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in _AGENTS]
    return {**_NODE, **dict(zip(_AGENTS, ports, strict=True))}


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Hand down that SIGINT is ignored, as shells do to what they start in the background: the harder case."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _told(command: list[str]) -> list[str]:
    """Tell a raylet the port of its agent, which Ray keeps to itself: else the raylet waits 15 s for it and aborts."""
    port = re.search(r"--listen-port=(\d+)", " ".join(command))
    return [*command, f"--dashboard_agent_listen_port={port[1]}"] if port else command


def _patiently(start: Callable[[], Any], tries: int = 4) -> Any:
    """Start something again where it did not come in time: Ray waits 30 s, which on a busy machine can be too short."""
    from ray._private import services

    started = services.start_ray_process
    with pytest.MonkeyPatch.context() as patch, _ignored_interrupts():
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its processes can import what the tests can
        patch.setattr(
            services, "start_ray_process", lambda command, *args, **more: started(_told(command), *args, **more)
        )
        for _ in range(tries - 1):
            try:
                return start()
            except Exception as error:  # Ray has no other type for it
                if "timed out" not in str(error):
                    raise
        return start()
