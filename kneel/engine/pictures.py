"""The picture of an epoch: what the network makes of a fixed handful of validation samples, side by side."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.utils.data import Dataset, default_collate

from kneel.engine.task import Pictured

HANDFUL = 8
_COLUMNS, _GAP = 4, 4
_QUALITY = 85  # of the JPEG: a handful of knees in about 100 kB

Picture = NDArray[np.uint8]


def handful(length: int, most: int = HANDFUL) -> list[int]:
    """
    Choose samples that lie evenly spaced in a set: the same in every epoch, and in every run on these data.

    Parameters
    ----------
    length
        Size of the set, at least 1.
    most
        How many to choose, where there are as many.

    Returns
    -------
    list of int
        Rising.
    """
    count = min(length, most)
    return [number * length // count for number in range(count)]


@torch.no_grad()
def draw(task: Pictured, model: nn.Module, dataset: Dataset[Any], to_device: Callable[[Any], Any]) -> Picture:
    """
    Let a task draw its predictions of the handful.

    Parameters
    ----------
    task
        What draws.
    model
        The network itself, not its wrapper for several devices; left in evaluation mode.
    dataset
        Validation set.
    to_device
        Brings a batch to where the model is.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
        RGB.
    """
    model.eval()
    length: int = len(dataset)  # type: ignore[arg-type] # torch leaves __len__ out of its Dataset
    batch = default_collate([dataset[number] for number in handful(length)])
    return side_by_side(task.pictures(model, to_device(batch)))


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """
    Lay pictures of one size out in rows of four, on white.

    Parameters
    ----------
    pictures
        At least one, each (h, w, 3).

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
        The grid.
    """
    height, width, channels = pictures[0].shape
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        grid[top : top + height, left : left + width] = picture
    return grid


def write_label(picture: Picture, text: str) -> Picture:
    """
    Write a line into the upper left corner, so that it can be read on any ground.

    Parameters
    ----------
    picture
        RGB, (h, w, 3).
    text
        Short.

    Returns
    -------
    ndarray, shape (h, w, 3), uint8
        A copy.
    """
    image = Image.fromarray(picture)
    font = ImageFont.load_default(14)
    ImageDraw.Draw(image).text((6, 4), text, (255, 255, 255), font, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def encode_jpeg(picture: Picture) -> bytes:
    """
    Encode a picture.

    Parameters
    ----------
    picture
        RGB, (H, W, 3).

    Returns
    -------
    bytes
        JPEG.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
