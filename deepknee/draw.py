"""Pictures of a reading: the landmarks on the knee, and the attention with the five probabilities.

Knees are shown as on the film: a left knee is NOT mirrored here, although its ROI is for the networks. Only one that
lies upside down on the film is turned over.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deepknee.knee_reading import KneeReading
from deepknee.sketch import lay_over
from kneel.imaging.geometry import RoiFrame
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.imaging.schema import FEMUR, TIBIA

PICTURE_PX = 512  # side of the square that shows the knee
JPEG_QUALITY = 82
BARS_PX = 148  # height of the probabilities under the attention picture

Color = tuple[int, int, int]
Picture = NDArray[np.uint8]

# Okabe and Ito's palette keeps apart for colour-blind readers.
TIBIA_COLOR: Color = (86, 180, 233)
FEMUR_COLOR: Color = (230, 159, 0)
_INK: Color = (32, 36, 42)
_FAINT: Color = (226, 229, 233)
_PAPER: Color = (255, 255, 255)
_SUBPIXEL = 4  # OpenCV draws at 1/16 pixel with this shift


def view_frame(knee: KneeReading, size: int = PICTURE_PX) -> RoiFrame:
    """Return the window of the knee's ROI on a grid to look at, not mirrored.

    Parameters
    ----------
    knee : KneeReading
        The knee.
    size : int
        Width and height of the picture in pixels.

    Returns
    -------
    RoiFrame
        Shows the same part of the film as `KneeReading.roi`.
    """
    scale = np.array(knee.frame.scale) * knee.frame.size / size
    return replace(knee.frame, scale=(float(scale[0]), float(scale[1])), size=(size, size), mirrored=False)


def landmark_picture(radiograph: Radiograph, knee: KneeReading, size: int = PICTURE_PX) -> Picture:
    """Draw the 16 landmarks and both bones' outlines on the knee.

    Parameters
    ----------
    radiograph : Radiograph
        The film.
    knee : KneeReading
        One of its knees.
    size : int
        Width and height of the picture in pixels.

    Returns
    -------
    ndarray, shape (size, size, 3), uint8
        RGB.
    """
    frame = view_frame(knee, size)
    points = frame.to_roi(knee.landmarks)
    picture = _film(radiograph, frame)
    for bone, color in ((TIBIA, TIBIA_COLOR), (FEMUR, FEMUR_COLOR)):
        line = _fixed(points[bone])[:, None]
        cv2.polylines(picture, [line], False, color, 1, cv2.LINE_AA, _SUBPIXEL)
        for x, y in _fixed(points[bone]):
            cv2.circle(picture, (int(x), int(y)), 4 << _SUBPIXEL, _INK, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
            cv2.circle(picture, (int(x), int(y)), 3 << _SUBPIXEL, color, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for bone, away, color in ((TIBIA, 14, TIBIA_COLOR), (FEMUR, -14, FEMUR_COLOR)):
        for number in range(16)[bone]:
            x, y = points[number]
            _write(pen, (x, y + away), str(number), 12, color, "mm")
    _label(pen, knee, points, size)
    return np.asarray(image)


def attention_picture(radiograph: Radiograph, knee: KneeReading, size: int = PICTURE_PX) -> Picture:
    """Lay the attention over the knee, and the five probabilities as bars below.

    Parameters
    ----------
    radiograph : Radiograph
        The film.
    knee : KneeReading
        One of its knees.
    size : int
        Width of the picture, and height of its part above the bars, in pixels.

    Returns
    -------
    ndarray, shape (size + BARS_PX, size, 3), uint8
        RGB.
    """
    frame = view_frame(knee, size)
    heat = knee.attention[:, ::-1] if knee.frame.mirrored else knee.attention
    heat = np.clip(cv2.resize(np.ascontiguousarray(heat), (size, size), interpolation=cv2.INTER_LINEAR), 0, 1)
    image = Image.new("RGB", (size, size + BARS_PX), _PAPER)
    image.paste(Image.fromarray(lay_over(_film(radiograph, frame)[..., 0] / 255, heat)))
    pen = ImageDraw.Draw(image)
    _label(pen, knee, frame.to_roi(knee.landmarks), size)
    _bars(pen, knee, size)
    return np.asarray(image)


def encode_png(picture: Picture) -> bytes:
    """Encode an RGB picture as PNG.

    Parameters
    ----------
    picture : ndarray, shape (H, W, 3), uint8
        RGB.

    Returns
    -------
    bytes
        The file.
    """
    # level 3 is five times faster than 9 and 3 % larger on these pictures
    return cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def encode_jpeg(picture: Picture, size: int) -> bytes:
    """Encode the square with the knee as a small JPEG; the bars below it are left out.

    Parameters
    ----------
    picture : ndarray, shape (H, W, 3), uint8
        RGB, H >= W.
    size : int
        Width and height of the JPEG in pixels.

    Returns
    -------
    bytes
        The file.
    """
    square = picture[: picture.shape[1], :, ::-1]
    small = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _film(radiograph: Radiograph, frame: RoiFrame) -> Picture:
    """Cut the window from the film itself: finer than the ROI of the networks, stretched for the eye."""
    patch = frame.crop(radiograph.pixels)
    grey = normalize_percentiles(patch, 1, 99.8)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=2)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    # points far outside the picture would overflow OpenCV's fixed-point numbers
    return np.rint(np.clip(points, -1e4, 1e4) * (1 << _SUBPIXEL)).astype(np.int32)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, height: int, color: Color, anchor: str
) -> None:
    pen.text(place, text, color, ImageFont.load_default(height), anchor, stroke_width=1, stroke_fill=(0, 0, 0))


def _label(pen: ImageDraw.ImageDraw, knee: KneeReading, points: NDArray[np.float64], size: int) -> None:
    """Name the knee, and its sides by where the landmarks lie: true also on a film that is seen from behind."""
    _write(pen, (10, 8), "Right knee" if knee.side == "R" else "Left knee", 22, _PAPER, "la")
    lateral_first = points[0, 0] < points[8, 0]
    names = ("lateral", "medial") if lateral_first else ("medial", "lateral")
    _write(pen, (10, size - 9), names[0], 19, _PAPER, "ls")
    _write(pen, (size - 10, size - 9), names[1], 19, _PAPER, "rs")


def _bars(pen: ImageDraw.ImageDraw, knee: KneeReading, size: int) -> None:
    left, right = 64, size - 64
    font = ImageFont.load_default(15)
    for grade, chance in enumerate(knee.probabilities):
        y = size + 20 + 27 * grade
        color = TIBIA_COLOR if grade != knee.kl else (0, 114, 178)
        pen.text((14, y), f"KL {grade}", _INK, font, "lm", stroke_width=0.4 if grade == knee.kl else 0)
        pen.rectangle((left, y - 8, right, y + 8), fill=_FAINT)
        pen.rectangle((left, y - 8, left + (right - left) * float(chance), y + 8), fill=color)
        pen.text((right + 10, y), f"{chance:.2f}", _INK, font, "lm")
