"""One owner a folder, on one machine or on several that share the file system.

``FOLDER/.lock/N`` belongs to the N-th owner. It was created exclusively, so no number has two owners; the highest
number owns the folder, and whoever finds a higher one than its own has lost it. No clock of another machine decides:

- An owner holds its file with ``flock``, and so does every process that inherited it. Processes of one kernel (told
  by its boot id) trust that alone: a lock that is held has an owner that lives, stopped perhaps; a free one has none.
- An owner of another machine lives as long as its file's time changes (`Lock.beat`), whatever that time says. It is
  dead when the time has not changed for `stale_after` seconds of the reader's own monotonic clock.
- An owner that slept and was taken for dead finds the higher number when it wakes, before it writes (`fence`).
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kneel.engine.queue.fence import LockLost, owner_files, still_mine

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_FREE = {"free": True}
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # network file systems without it


@dataclass(frozen=True)
class Owner:
    """Who has, or had, a folder.

    Attributes
    ----------
    machine
        Boot id of its kernel, else its host name.
    host, pid
        For people.
    """

    machine: str
    host: str
    pid: int

    @classmethod
    def here(cls) -> "Owner":
        """Describe this process."""
        return cls(machine_id(), platform.node(), os.getpid())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Busy:
    """Why a folder was not to be had.

    Attributes
    ----------
    owner
        Who has it; None while it is being taken.
    """

    owner: Owner | None

    def __str__(self) -> str:
        return f"held by {self.owner or 'a process that is starting'}"


def machine_id() -> str:
    """Name the running kernel: what ``flock`` says is certain within one."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()


class Lock:
    """
    A folder that this process owns, from `Watch.acquire` on, until it gives it back or ends.

    Parameters
    ----------
    descriptor
        The owner's open file, whose heirs hold the lock too (``subprocess.Popen(pass_fds=...)``).
    path
        Its name.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor, self.path = descriptor, path

    def beat(self) -> None:
        """
        Show that the owner lives; to be called every `BEAT_SECONDS`.

        Raises
        ------
        LockLost
            When another owner has taken the folder.
        """
        with contextlib.suppress(FileNotFoundError):  # deleted by an owner that has come since
            if still_mine(self.path):
                os.utime(self.path)
                return
        raise LockLost(f"{self.path.parents[1]}: taken over by {_newest_owner(self.path.parent)}")

    def release(self) -> None:
        """Give the folder back; the file stays, so that its number is not given out again."""
        _write(self.descriptor, _FREE)
        os.close(self.descriptor)

    def hand_over(self) -> None:
        """Leave the lock to the heirs of its descriptor; one of them goes on beating, and gives it back."""
        os.close(self.descriptor)


class Watch:
    """
    Takes folders, and remembers when it saw other owners' files change.

    Parameters
    ----------
    owner
        Who asks; None for this process.
    stale_after
        Seconds without a change after which an owner on another machine is dead: several times `BEAT_SECONDS`, and as
        long as the file system keeps what it knows of files (NFS: up to 60 s).
    """

    def __init__(self, owner: Owner | None = None, stale_after: float = STALE_SECONDS) -> None:
        self._owner, self._stale_after = owner, stale_after
        self._seen: dict[Path, tuple[int, float]] = {}

    def acquire(self, folder: Path) -> Lock | Busy:
        """
        Take a folder if nobody living has it; never waits.

        Parameters
        ----------
        folder
            Made when it is not there.

        Returns
        -------
        Lock or Busy
            The lock, or who has it. An owner on another machine that died is not told from a living one before it was
            watched for `stale_after` seconds: ask again.
        """
        locks = folder / ".lock"
        locks.mkdir(parents=True, exist_ok=True)
        files = owner_files(locks)
        if files and self._lives(files[-1]):
            return Busy(_newest_owner(locks))
        number = 1 + (int(files[-1].name) if files else 0)
        path = locks / str(number)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return Busy(_newest_owner(locks))  # another was quicker
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            try_flock(descriptor, fcntl.LOCK_EX)  # waits for those who only look
            _write(descriptor, asdict(self._owner or Owner.here()))
            if not still_mine(path):  # whoever was asleep since it looked may have taken a number of the past
                path.unlink(missing_ok=True)
                return Busy(_newest_owner(locks))
            undo.pop_all()
        for old in files:
            old.unlink(missing_ok=True)
        return Lock(descriptor, path)

    def _lives(self, path: Path) -> bool:
        """Say whether the owner of this file may be alive."""
        try:
            with path.open(encoding="utf-8") as file:
                record, changed = _parse(file.read()), os.fstat(file.fileno()).st_mtime_ns
                if record == _FREE:
                    return False
                sure = record.get("machine") == (self._owner.machine if self._owner else machine_id())
                unheld = try_flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True  # just now taken over: there is a higher number
        if unheld is False or (unheld and sure):
            return not unheld
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if changed != before:
            since = now
        self._seen[path] = (changed, since)
        return now - since < self._stale_after


def try_flock(descriptor: int, how: int) -> bool | None:
    """Lock an open file; return whether it is locked now, or None where the file system has no such locks."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _newest_owner(locks: Path) -> Owner | None:
    """Read who has a folder; None while nobody has, or the file is being written."""
    try:
        return Owner(**_parse(owner_files(locks)[-1].read_text(encoding="utf-8")))
    except (OSError, IndexError, TypeError):
        return None


def _write(descriptor: int, record: dict[str, Any]) -> None:
    text = json.dumps(record)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _parse(text: str) -> dict[str, Any]:
    """Return what is in a lock's file; nothing while it is being written."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
