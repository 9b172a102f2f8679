"""Which of several processes this is, and which of them speaks; known from the launcher's environment alone."""

import os
import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from tqdm import tqdm

_PATIENCE = timedelta(seconds=10)  # with the launcher's store


def process_rank() -> int:
    """Return the number of this process, from 0; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Say whether this is the process that writes and speaks."""
    return process_rank() == 0


def signed(words: str) -> str:
    """Put the name of the process in front, where there are several."""
    if process_count() == 1:
        return words
    return f"process {process_rank()} of {process_count()} on {socket.gethostname()}: {words}"


def first_to_fail() -> bool:
    """
    Say whether this process is the first of its group that fails, and so the one to tell why; asked once, on failing.

    The others fail because it is gone, or of the same thing. They are told apart by torchrun's store; without torchrun
    every process is a first one.
    """
    if process_count() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import TCPStore  # not before something has failed

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(address, port, is_master=False, timeout=_PATIENCE, wait_for_workers=False)
        return int(store.add(f"kneel/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1)) == 1
    except RuntimeError:
        return True  # the store is gone: twice is better than never


def progress(items: Iterable[Any], words: str, total: int | None = None) -> Any:
    """
    Draw a bar while items are gone through, in the main process and where there is a terminal to draw it on.

    Parameters
    ----------
    items
        What to go through.
    words
        What is being done.
    total
        How many there are, where `items` does not say.
    """
    disable = None if is_main_process() else True
    return tqdm(items, words, total, leave=False, dynamic_ncols=True, disable=disable)
