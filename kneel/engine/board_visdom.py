"""A board on a visdom server: one window a quantity, and one with the pictures."""

import contextlib
import ipaddress
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from kneel.engine.board import Rows
from kneel.engine.curves import COLORS, Curve, windows

_log = logging.getLogger(__name__)
_PATIENCE = 3.0  # seconds with a server that does not answer
_PAUSES = 60.0, 3600.0  # seconds until a silent server is tried again, and their limit: they double
_SLIDER = 24  # pictures at most in the window: visdom works on all of them for each one that is added
_QUALITY = 85
_SLIDER_PX = 100  # its height, and its caption's, around the pictures


class VisdomBoard:
    """
    Curves with their intervals, and pictures with a slider, in one environment of a visdom server.

    Every window is drawn anew in every epoch, so that nothing stands on it twice, and a server that was started again
    is filled again. A server that cannot be reached, now or later, costs one warning and at most 3 s; it is tried again
    after 1, 2, 4 ... minutes.

    Parameters
    ----------
    server
        Host or URL; only this machine unless told otherwise.
    port
        Port of the server.
    env
        Visdom environment, such as the experiment's name and the fold.
    """

    def __init__(self, server: str = "http://localhost", port: int = 8097, env: str = "main") -> None:
        self._url, self._port, self._env = server if "//" in server else f"http://{server}", port, env
        self._client: Any = None
        self._silent = False  # so far, and warned of
        self._pause, self._not_before = _PAUSES[0], 0.0
        self._shown: list[int] | None = None  # epochs whose pictures are in the window; None: not ours yet

    def show(self, rows: Rows, pictures: Mapping[int, Path]) -> None:
        """
        Draw all windows; see `kneel.engine.board.Board`.

        Parameters
        ----------
        rows
            One an epoch.
        pictures
            JPEG file by epoch.
        """
        if time.monotonic() < self._not_before:
            return
        try:
            self._client = self._client or _connect(self._url, self._port, self._env)
            for title, curves in windows(rows).items():
                _draw(self._client, title, [int(row["epoch"]) for row in rows], curves)
            self._show_pictures(pictures)
        except OSError as error:
            self._give_up(error)
        else:
            if self._silent:
                _log.info("visdom at %s:%s answers again", self._url, self._port)
            self._silent, self._pause = False, _PAUSES[0]

    def _show_pictures(self, pictures: Mapping[int, Path]) -> None:
        if not pictures:
            return
        if self._shown is not None and not self._client.win_exists("pictures"):
            self._shown = None
        new = [epoch for epoch in pictures if not self._shown or epoch > self._shown[-1]]
        if self._shown is None or len(self._shown) + len(new) > _SLIDER:
            self._client.close("pictures")
            self._shown, new = [], _spread(list(pictures), _SLIDER // 2)
        for epoch in new:
            with Image.open(pictures[epoch]) as image:
                picture = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            options = {
                "title": "predictions",
                "caption": f"epoch {epoch}",
                "jpgquality": _QUALITY,
                "store_history": True,
                "width": picture.shape[2],
                "height": picture.shape[1] + _SLIDER_PX,
            }
            self._client.image(picture, win="pictures", opts=options)
            self._shown.append(epoch)

    def _give_up(self, error: OSError) -> None:
        self._client, self._shown = None, None
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _PAUSES[1])
        if not self._silent:
            self._silent = True
            told = f"no visdom at {self._url}:{self._port} ({error}); the training goes on, metrics.csv has the curves"
            warnings.warn(told, stacklevel=3)


class _Unanswered(OSError):
    """The server was asked and did not answer as visdom does."""


def _connect(url: str, port: int, env: str) -> Any:
    import requests  # only when asked for: slow, and absent on many clusters
    import visdom

    class Client(visdom.Visdom):
        def _handle_post(self, url: str, data: Any = None) -> str:
            session: Any = self.session  # type: ignore[attr-defined] # not in visdom's stubs
            session.trust_env = not _is_here(url)  # a proxy would look for its own localhost
            try:
                # visdom itself waits for ever; a hung server must not hang the training.
                response = session.post(url, data=data, timeout=_PATIENCE)
                response.raise_for_status()
            except requests.Timeout:
                raise _Unanswered(f"silent for {_PATIENCE:.0f} s") from None
            except requests.ConnectionError:
                raise _Unanswered("no connection") from None
            except requests.RequestException as error:
                raise _Unanswered(str(error)) from error
            return str(response.text)

    logging.getLogger("visdom").setLevel(logging.ERROR)  # it tells of every session
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how visdom logs
        return Client(server=url, port=port, env=env, raise_exceptions=True, use_incoming_socket=False)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _draw(client: Any, title: str, epochs: Sequence[int], curves: Sequence[Curve]) -> None:
    """Replace a window: under each curve its band, which is the area between two lines that are not drawn."""
    names, columns, traces = [], [], {}
    for number, curve in enumerate(curves):
        color = ",".join(map(str, COLORS[number % len(COLORS)]))
        hidden = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        if curve.low is not None and curve.high is not None:
            low, high = f"{curve.name} low", f"{curve.name} high"
            names += [low, high]
            columns += [curve.low, curve.high]
            traces[low] = hidden | {"legendgroup": curve.name}
            traces[high] = traces[low] | {"fill": "tonexty", "fillcolor": f"rgba({color},0.15)"}
        names.append(curve.name)
        columns.append(curve.values)
        traces[curve.name] = {"legendgroup": curve.name, "line": {"color": f"rgb({color})", "width": 2}}
        traces[curve.name] |= {"marker": {"color": f"rgb({color})", "size": 4}}
    options = {
        "title": title,
        "xlabel": "epoch",
        "showlegend": len(curves) > 1,
        "legend": names,
        "markers": True,
        "width": 380,
        "height": 300,
        "marginleft": 50,
        "marginright": 20,
        "margintop": 30,
        "marginbottom": 40,
        "traceopts": {"plotly": traces},
        "layoutopts": {"plotly": {"title": ""}},  # the window's own bar says it
    }
    points = np.array(columns, float).T
    client.line(points, np.array(epochs, float), win=title, opts=options)


def _spread(epochs: Sequence[int], most: int) -> list[int]:
    """Choose epochs evenly, the first and the last among them."""
    count = min(len(epochs), most)
    return [epochs[round(number * (len(epochs) - 1) / max(count - 1, 1))] for number in range(count)]
