"""A board for TensorBoard: event files in a folder; needs the package ``tensorboard``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kneel.engine.board import Rows
from kneel.engine.config import ConfigError
from kneel.engine.curves import windows


class TensorBoard:
    """
    Scalars, intervals as margin charts (custom scalars), and pictures.

    Parameters
    ----------
    folder
        Where the event files go; those of an earlier start of the same training are deleted with the first epoch shown.

    Raises
    ------
    ConfigError
        ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # only when asked for: an extra
        except ImportError as error:
            raise ConfigError(f"TensorBoard is not installed (pip install tensorboard): {error}") from error
        self._folder, self._make = folder, SummaryWriter
        self._writer: Any = None
        self._shown = 0
        self._pictured: set[int] = set()

    def show(self, rows: Rows, pictures: Mapping[int, Path]) -> None:
        """
        Write the epochs that are new; see `kneel.engine.board.Board`.

        Parameters
        ----------
        rows
            One an epoch.
        pictures
            JPEG file by epoch.
        """
        if self._writer is None:
            self._start(rows)
        for row in rows[self._shown :]:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
        self._shown = len(rows)
        for epoch in sorted(pictures.keys() - self._pictured):
            with Image.open(pictures[epoch]) as image:
                self._writer.add_image("predictions", np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
            self._pictured.add(epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; a training that ends does without, for every epoch is flushed."""
        if self._writer is not None:
            self._writer.close()

    def _start(self, rows: Rows) -> None:
        for path in self._folder.glob("events.out.tfevents.*"):
            path.unlink()
        # a TensorBoard that runs already forgets what it read in the deleted files
        self._writer = self._make(str(self._folder), purge_step=0)
        charts = {
            curve.name: ["Margin", [curve.name, f"{curve.name}_low", f"{curve.name}_high"]]
            for curves in windows(rows).values()
            for curve in curves
            if curve.low is not None
        }
        if charts:
            self._writer.add_custom_scalars({"metrics with intervals": charts})
