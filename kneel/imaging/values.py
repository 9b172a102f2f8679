"""From stored values to grey levels: bright bone, unsigned, nothing lost.

For 8 and 16 bits every step is a function of the stored word alone, so the steps are composed on a table of all words
and the image is walked once; not at all when the table turns out to change nothing, as in most films.

The steps are those of PS3.4 N.2, less the VOI stage. Windows and VOI LUTs are NOT applied: they are a proposal for a
human eye on one display, often clip the bone's margins, differ between exports of one exposure, and are replaced here
by the percentiles of ``normalize_percentiles``. A positive rescale cancels in the same percentiles, so it is skipped
as well and stored values keep all of their bits.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kneel.imaging.decode import StoredPixels
from kneel.imaging.header import Header, tag_error
from kneel.imaging.radiograph import RadiographError

Grey = NDArray[np.uint8] | NDArray[np.uint16]
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the Y of YBR_FULL (PS3.3 C.7.6.3.1.2)


def grey_levels(stored: StoredPixels, header: Header, *, little_endian: bool) -> tuple[Grey, NDArray[np.bool_] | None]:
    """Turn stored values into grey levels.

    Parameters
    ----------
    stored : StoredPixels
        One frame.
    header : Header
        For the Modality LUT, palette, polarity and padding.
    little_endian : bool
        Byte order of lookup tables in the header.

    Returns
    -------
    pixels : ndarray of uint8 or uint16, shape (H, W)
        Bright bone; 0 where padded.
    padding : ndarray of bool, shape (H, W), or None
        None when no pixel is padding.

    Raises
    ------
    RadiographError
        If a lookup table cannot be used.
    """
    if stored.values.ndim == 3:
        return _luma(stored), None
    if stored.values.itemsize == 4:
        return _from_wide(stored, header)
    kind = f"u{stored.values.itemsize}"
    words = np.arange(2 ** (8 * stored.values.itemsize))
    levels = _stored_levels(words, stored)
    table = _grey_table(levels, stored, header, little_endian)
    raw = stored.values.view(kind)
    padding = None
    is_padding = _is_padding(words, levels, stored, header)
    if is_padding.any():
        padding = cv2.LUT(raw, is_padding.view(np.uint8)).view(np.bool_)
        padding = padding if padding.any() else None
        table[is_padding] = 0
    return _look_up(raw, table), padding


def needs_inversion(header: Header, photometric: str) -> bool:
    """Say whether the lowest value is meant to be shown white.

    ===========  =======================  ========
    photometric  Presentation LUT Shape   inverted
    ===========  =======================  ========
    MONOCHROME1  INVERSE                  yes, once: the pair that DX prescribes (PS3.3 C.8.11.3)
    MONOCHROME1  absent, IDENTITY, other  yes: the photometric interpretation is always there and decides (C.7.6.3.1.2)
    MONOCHROME2  INVERSE                  yes: P-values come out after an inversion (C.11.6)
    MONOCHROME2  absent, IDENTITY, other  no
    colour       any                      no: the shape is about greyscale
    ===========  =======================  ========

    The two tags say the same thing twice, they do not undo one another. Pixel Intensity Relationship Sign tells how
    pixels came about, not how to show them (C.8.11.3.1.2), and is not looked at.
    """
    if not photometric.startswith("MONOCHROME"):
        return False
    return photometric == "MONOCHROME1" or (header.text("PresentationLUTShape") or "").upper() == "INVERSE"


def squeeze_to_uint16(
    values: NDArray, *, flip: bool = False, padding: NDArray[np.bool_] | None = None
) -> NDArray[np.uint16]:
    """Map values with more than 16 bits to uint16 by one affine map, a plain shift when their range allows it.

    Parameters
    ----------
    values : ndarray of int or uint, shape (H, W)
        Values.
    flip : bool
        Turn the scale round.
    padding : ndarray of bool, shape (H, W), optional
        Values that do not count for the range and come out as 0.

    Returns
    -------
    ndarray of uint16, shape (H, W)
    """
    valid = values if padding is None else values[~padding]
    if valid.size == 0:
        return np.zeros(values.shape, np.uint16)
    low, high = int(valid.min()), int(valid.max())
    scale = 1.0 if high - low <= 65535 else 65535 / (high - low)
    shifted = (high - values.astype(np.int64)) if flip else (values.astype(np.int64) - low)
    result = np.rint(np.clip(shifted, 0, high - low) * scale).astype(np.uint16)
    if padding is not None:
        result[padding] = 0
    return result


def _stored_levels(words: NDArray, stored: StoredPixels) -> NDArray[np.int64]:
    """Return the pixel value in each word: the stored bits alone, sign extended (PS3.5 8.1.1).

    The other bits may hold overlays, or anything.
    """
    bits = stored.bits_stored
    levels = words.astype(np.int64) & (2**bits - 1)
    return np.where(levels >= 2 ** (bits - 1), levels - 2**bits, levels) if stored.signed else levels


def _grey_table(
    levels: NDArray[np.int64], stored: StoredPixels, header: Header, little_endian: bool
) -> NDArray[np.int64]:
    """Return the unsigned bright-bone grey level of each stored value."""
    if stored.photometric == "PALETTE COLOR":
        return _palette_luma(levels, stored, header, little_endian)
    flip = needs_inversion(header, stored.photometric)
    modality = header.items("ModalityLUTSequence")
    if modality:
        first, entries, top = _read_lut(modality[0], "LUTDescriptor", "LUTData", stored.signed, little_endian)
        grey = entries[np.clip(levels - first, 0, len(entries) - 1)]
    else:
        flip ^= _falls(header)
        grey = levels - (-(2 ** (stored.bits_stored - 1)) if stored.signed else 0)
        top = 2**stored.bits_stored - 1
    return top - grey if flip else grey


def _falls(header: Header) -> bool:
    """Say whether Rescale Slope is negative. A slope of 0 or garbage has no meaning, and is passed over."""
    slope = header.numbers("RescaleSlope")
    return slope is not None and len(slope) == 1 and slope[0] < 0


def _read_lut(
    item: Header, descriptor: str, data: str, signed: bool, little_endian: bool
) -> tuple[int, NDArray[np.int64], int]:
    """Read one lookup table (PS3.3 C.11.1.1): first mapped value, entries, highest possible entry."""
    parts = item.numbers(descriptor)
    if parts is None or len(parts) != 3 or not all(p.is_integer() for p in parts):
        raise tag_error(descriptor, item.find(descriptor), "three integers: entries, first value mapped, bits")
    count, first, bits = (int(p) for p in parts)
    count = count & 0xFFFF or 65536  # 65536 does not fit in 16 bits and is written as 0
    if signed and first >= 32768:
        first -= 65536  # written as US although pixels are signed
    if not 1 <= bits <= 16:
        raise tag_error(descriptor, parts, "8..16 bits")
    values = item.get(data)
    if isinstance(values, bytes):
        kind = "u1" if len(values) < 2 * count else f"{'<' if little_endian else '>'}u2"
        entries = np.frombuffer(values[: len(values) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind)
    else:
        numbers = item.numbers(data)
        entries = np.array(() if numbers is None else numbers, float)
    if len(entries) < count:
        raise tag_error(data, f"{len(entries)} entries", f"{count} entries, as {descriptor} says")
    table = entries[:count].astype(np.int64) & 0xFFFF
    return first, table, max(2**bits - 1, int(table.max()))


def _palette_luma(
    levels: NDArray[np.int64], stored: StoredPixels, header: Header, little_endian: bool
) -> NDArray[np.int64]:
    """Return the luma of the palette colour of each stored value."""
    luma = np.zeros(levels.shape)
    for colour, weight in zip(("Red", "Green", "Blue"), _LUMA, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        if header.find(f"Segmented{name}Data") is not None and header.find(f"{name}Data") is None:
            raise tag_error(f"Segmented{name}Data", "present", f"a plain table, {name}Data")
        first, entries, _ = _read_lut(header, f"{name}Descriptor", f"{name}Data", stored.signed, little_endian)
        luma += weight * entries[np.clip(levels - first, 0, len(entries) - 1)]
    return np.rint(luma).astype(np.int64)


def _is_padding(words: NDArray, levels: NDArray[np.int64], stored: StoredPixels, header: Header) -> NDArray[np.bool_]:
    """Say of each word whether it is padding: Pixel Padding Value, or from there to Range Limit (PS3.3 C.7.5.1.1.2)."""
    bounds = [
        _as_word(header.numbers(keyword), words.size, stored.signed)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    given = [b for b in bounds if b is not None]
    if bounds[0] is None:
        return np.zeros(words.shape, np.bool_)
    low, high = min(given), max(given)
    if low < levels.min() or high > levels.max():
        # Padding outside of the stored bits marks whole words.
        levels = np.where(words >= words.size // 2, words - words.size, words) if stored.signed else words
    return (levels >= low) & (levels <= high)


def _as_word(numbers: tuple[float, ...] | None, words: int, signed: bool) -> int | None:
    """Return a padding value as a pixel would hold it, whichever of US and SS it was written with."""
    if numbers is None or len(numbers) != 1 or not numbers[0].is_integer():
        return None
    word = int(numbers[0]) % words
    return word - words if signed and word >= words // 2 else word


def _look_up(raw: NDArray, table: NDArray[np.int64]) -> Grey:
    """Send each word through a table, or return the words themselves when the table would not change them."""
    low, high = int(raw.min()), int(raw.max())
    kind = np.uint8 if table.max() <= 255 else np.uint16
    if np.array_equal(table[low : high + 1], np.arange(low, high + 1)):
        return _as_grey(raw.astype(kind, copy=False))
    # In place where the bytes are ours: fresh memory costs more than the table.
    own = raw.flags.writeable and raw.dtype == kind
    return _as_grey(cv2.LUT(raw, table.astype(kind), dst=raw if own else None))


def _as_grey(array: Any) -> Grey:
    """State the type of what OpenCV returns."""
    return cast(Grey, array)


def _luma(stored: StoredPixels) -> Grey:
    """Return the luma of a colour image."""
    values = stored.values & stored.values.dtype.type(2**stored.bits_stored - 1)
    if stored.photometric == "RGB":
        return _as_grey(cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_RGB2GRAY))
    if stored.photometric.startswith("YBR"):
        return np.ascontiguousarray(values[..., 0])
    raise RadiographError(f"the decoder left the colours as {stored.photometric}; valid: RGB or YBR")


def _from_wide(stored: StoredPixels, header: Header) -> tuple[Grey, NDArray[np.bool_] | None]:
    """Turn 32-bit stored values into grey levels."""
    if stored.photometric == "PALETTE COLOR" or header.items("ModalityLUTSequence"):
        raise tag_error("BitsAllocated", 32, "8 or 16 with a palette or a Modality LUT")
    words = stored.values.view(np.uint32).astype(np.int64)
    levels = _stored_levels(words, stored)
    flip = needs_inversion(header, stored.photometric) ^ _falls(header)
    bounds = [
        _as_word(header.numbers(keyword), 2**32, stored.signed)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    padding = None
    if bounds[0] is not None:
        given = [b for b in bounds if b is not None]
        padding = (levels >= min(given)) & (levels <= max(given))
        padding = padding if padding.any() else None
    return squeeze_to_uint16(levels, flip=flip, padding=padding), padding
