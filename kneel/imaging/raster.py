"""PNG, JPEG and TIFF files: pixels only. Their resolution tags describe a print or a screen, not the knee: not read."""

from __future__ import annotations

from io import BytesIO
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kneel.imaging.header import SMALLER, library_errors
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.values import squeeze_to_uint16

_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274  # TIFF 6.0 tags
_MIN_IS_WHITE = 0


def read_raster(
    content: bytes, kind: str, *, frame: int | None, max_megapixels: float
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read the grey levels of a PNG, JPEG or TIFF file.

    Colour becomes luma, transparency is ignored, an orientation tag is obeyed as viewers do. The file is taken to
    show bone bright, as every viewer would show it; TIFF's white-is-zero is turned round.

    Parameters
    ----------
    content : bytes
        The file.
    kind : {"PNG", "JPEG", "TIFF"}
        Its format.
    frame : int or None
        Page, for files with several.
    max_megapixels : float
        Largest image that is decoded.

    Returns
    -------
    ndarray of uint8 or uint16, shape (H, W)

    Raises
    ------
    RadiographError
        If the file is damaged, too large, has several pages and none was chosen, or has pixels that are not integers.
    """
    with library_errors(f"opening the {kind} file"):
        image = Image.open(BytesIO(content), formats=[kind])
        _choose_page(image, kind, frame)
    columns, rows = image.size
    if rows * columns > max_megapixels * 1e6:
        raise RadiographError(
            f"the image has {rows} x {columns} pixels; valid: at most {max_megapixels:g} megapixels: {SMALLER}"
        )
    if rows * columns == 0:
        raise RadiographError(f"the image has {rows} x {columns} pixels; valid: at least 1 x 1")
    with library_errors(f"decoding the {kind} file"):
        return _decode(image, content, kind, frame or 0)


def _choose_page(image: Image.Image, kind: str, frame: int | None) -> None:
    """Move to the chosen page. Phones append previews to a JPEG, which are no pages."""
    if kind == "JPEG":
        several = False
    else:
        try:
            image.seek(1)
            several = True
        except EOFError:
            several = False
        image.seek(0)
    if several and frame is None:
        choice = "one film a file: save the page by itself, or read it in Python with frame=0, 1, ..."
        raise RadiographError(f"the file has several pages; valid: {choice}")
    if frame is not None and (frame < 0 or (frame > 0 and not several)):
        raise RadiographError(f"frame={frame} is not there; valid: 0")
    if frame:
        try:
            image.seek(frame)
        except EOFError as error:
            raise RadiographError(f"frame={frame} is not there; the file has fewer pages") from error


def _decode(image: Image.Image, content: bytes, kind: str, page: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode the page that `image` stands at."""
    tags = getattr(image, "tag_v2", {})
    inverted = image.mode.startswith("I") and tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    deep = _is_deep_colour(image, content, kind)
    image.load()
    if deep:
        return _decode_deep_colour(image, content, page)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "F", "I;32", "I;32B"):
        raise RadiographError(f"the pixels are of kind {image.mode}; valid: 8 or 16 bits")
    if image.mode == "I":
        return squeeze_to_uint16(np.asarray(image), flip=inverted)
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        return np.uint16(65535) - values if inverted else values
    if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    return np.array(image.convert("L"))


def _is_deep_colour(image: Image.Image, content: bytes, kind: str) -> bool:
    """Say whether the file has 16-bit colour or alpha, which Pillow would silently cut to 8 bits."""
    if image.mode.startswith(("I", "F")) or kind == "JPEG":
        return False
    if kind == "PNG":
        return content[24:25] == b"\x10"  # bit depth in IHDR, always the first chunk
    return max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))) > 8


def _decode_deep_colour(image: Image.Image, content: bytes, page: int) -> NDArray[np.uint16]:
    """Decode 16-bit colour with OpenCV, after Pillow has found the file whole."""
    if image.getexif().get(_ORIENTATION, 1) != 1 or page:
        raise RadiographError("16-bit colour in a turned or many-page file; valid: 16-bit greyscale, or 8-bit colour")
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != image.size[::-1]:
        raise RadiographError("16-bit colour that cannot be decoded; valid: 16-bit greyscale, or 8-bit colour")
    if values.ndim == 3:
        values = cv2.cvtColor(np.ascontiguousarray(values[..., :3]), cv2.COLOR_BGR2GRAY)
    return cast(NDArray[np.uint16], values)
