"""Curves of a training: a CSV always, a visdom server when asked and reachable."""

import csv
import io
import socket
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from kneel.engine.snapshot import write_atomic

_SECONDS = 3.0  # patience with a visdom server


class Board(Protocol):
    """Something that shows the numbers of an epoch."""

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """
        Show the numbers of one epoch; epochs come in order, after a resume from the first one on.

        Parameters
        ----------
        epoch
            Epochs that are over, from 1.
        values
            Number by name, the same names every epoch.
        """


class MetricsCsv:
    """
    Table with one row an epoch, exact decimal numbers, complete on disk after every row.

    Parameters
    ----------
    path
        The CSV file; a file of an earlier run is replaced with the first row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, float]] = []

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """
        Add the row of an epoch and rewrite the file.

        Parameters
        ----------
        epoch
            Epochs that are over, from 1.
        values
            Number by name; the first row decides the columns.

        Raises
        ------
        ValueError
            When the names are not those of the first row.
        """
        row = {"epoch": epoch, **values}
        if self._rows and set(row) != set(self._rows[0]):
            odd = ", ".join(sorted(set(row) ^ set(self._rows[0])))
            raise ValueError(f"{self._path}: epoch {epoch}: other columns than in the first row: {odd}")
        self._rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self._rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self._path, text.getvalue().encode())


class VisdomBoard:
    """
    Curves on a visdom server, one window a quantity; ``train_loss`` and ``loss`` share the window ``loss``.

    A server that cannot be reached, now or later, costs one warning and nothing else.

    Parameters
    ----------
    server
        Host or URL; only this machine unless told otherwise.
    port
        Port of the server.
    env
        Visdom environment, such as the experiment's name.
    """

    def __init__(self, server: str = "http://localhost", port: int = 8097, env: str = "main") -> None:
        self._where = f"{server}:{port}"
        self._client: Any = None
        self._windows: set[str] = set()
        url = server if "//" in server else f"http://{server}"
        try:
            # Asked first, because visdom's own start waits and retries for long.
            socket.create_connection((urlsplit(url).hostname or server, port), timeout=_SECONDS).close()
            self._client = _connect(url, port, env)
        except OSError as error:
            self._give_up(error)

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """
        Add one point to every curve.

        Parameters
        ----------
        epoch
            Epochs that are over, from 1.
        values
            Number by name; names that differ in ``train_`` or ``val_`` in front share a window.
        """
        for name, value in values.items():
            if self._client is None:
                return
            window = name.removeprefix("train_").removeprefix("val_")
            options = {"title": window, "xlabel": "epoch", "showlegend": True}
            # The first point replaces what an earlier run left in the window.
            update = "append" if window in self._windows else None
            try:
                self._client.line(
                    Y=np.array([value]), X=np.array([epoch]), win=window, name=name, update=update, opts=options
                )
            except OSError as error:
                self._give_up(error)
            self._windows.add(window)

    def _give_up(self, error: OSError) -> None:
        self._client = None
        warnings.warn(f"no visdom at {self._where} ({error}); the curves are in metrics.csv", stacklevel=3)


def show(boards: Iterable[Board], row: Mapping[str, float]) -> None:
    """
    Show the row of an epoch on every board.

    Parameters
    ----------
    boards
        Where to.
    row
        Number by name, ``epoch`` among them.
    """
    for board in boards:
        board.scalars(int(row["epoch"]), {key: value for key, value in row.items() if key != "epoch"})


def _connect(url: str, port: int, env: str) -> Any:
    import visdom  # only when asked for: slow, and absent on many clusters

    class Client(visdom.Visdom):
        def _handle_post(self, url: str, data: Any = None) -> str:
            # visdom waits for ever; a hung server must not hang the training.
            session: Any = self.session  # type: ignore[attr-defined] # not in visdom's stubs
            return str(session.post(url, data=data, timeout=_SECONDS).text)

    return Client(server=url, port=port, env=env, raise_exceptions=True, use_incoming_socket=False)
