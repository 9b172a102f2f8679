"""One process a run folder: a training that no queue started takes the folder's lock itself."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kneel.engine.atomic import explain_full
from kneel.engine.queue.fence import LOCK_VARIABLE, LockLost

if TYPE_CHECKING:
    from kneel.engine.queue.locks import Lock, Owner

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.2


class RunBusy(RuntimeError):
    """Another process is training into this folder; says which."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """
    Own a run's folder meanwhile; on the first of several processes, and unless a queue owns it for this one.

    Parameters
    ----------
    folder
        The run's folder; made when it is not there.

    Raises
    ------
    RunBusy
        When a living process owns it. One that was just killed is waited for, until its loader processes are gone
        too; one on another machine, until it has shown no life for a minute.
    """
    if os.environ.get(LOCK_VARIABLE) or os.environ.get("RANK", "0") != "0" or os.name == "nt":
        yield  # Windows has no flock
        return
    with explain_full(folder, 4096):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder)
    os.environ[LOCK_VARIABLE] = str(lock.path)  # so that what writes asks first (`check_owned`)
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(lock, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        del os.environ[LOCK_VARIABLE]
        lock.release()


def _acquire(folder: Path) -> "Lock":
    from kneel.engine.queue.locks import STALE_SECONDS, Busy, Watch  # has no use on Windows

    watch, until, told = Watch(), time.monotonic() + STALE_SECONDS + 1, False
    while isinstance(lock := watch.acquire(folder), Busy):
        if _lives_here(lock.owner) or time.monotonic() > until:
            raise RunBusy(f"{folder} is {lock}; wait for it, stop it, or give this run another name")
        if not told:
            _log.info("%s is %s; waiting whether that is still alive", folder, lock)
        told = True
        time.sleep(_POLL_SECONDS)
    return lock


def _lives_here(owner: "Owner | None") -> bool:
    from kneel.engine.queue.locks import machine_id

    if owner is None or owner.machine != machine_id():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _beat(lock: "Lock", over: threading.Event) -> None:
    from kneel.engine.queue.locks import BEAT_SECONDS

    while not over.wait(BEAT_SECONDS):
        try:
            lock.beat()
        except LockLost as error:
            _log.warning("%s", error)  # the next snapshot is refused (`check_owned`)
            return
        except OSError as error:
            _log.warning("%s: no sign of life could be given: %s", lock.path, error)
