"""What is remembered of a ROI that was cut from a film. No torch: the processes that cut films need none."""

from __future__ import annotations

import re
from dataclasses import dataclass

KNEES = "knees.csv"
_PICTURE = re.compile(r".+_V\d+_[LR]\.png")


def picture_name(subject_id: str, visit: str, side: str) -> str:
    """Name the picture of a knee at a visit, in the folder of its grade.

    Examples
    --------
    >>> picture_name("9000099", "00", "L")
    '9000099_V00_L.png'
    >>> is_picture_name("9000099_V00_L.png"), is_picture_name("9000099L.png")
    (True, False)
    """
    return f"{subject_id}_V{visit}_{side}.png"


def is_picture_name(name: str) -> bool:
    """Say whether a file is named as `picture_name` does."""
    return _PICTURE.fullmatch(name) is not None


@dataclass(frozen=True)
class RoiRow:
    """One row of ``knees.csv``: a knee at a visit.

    Attributes
    ----------
    file : str
        Its picture below the folder: 8 bit, bright bone, lateral at small x (left knees mirrored), the joint in the
        middle; grey levels are those of `kneel.imaging.radiograph.normalize_percentiles` on the whole film.
    subject_id, visit, side : str
        Whose, when and which.
    kl : int
        Grade, 0 to 4.
    code : str
        The same as the readings have it.
    mm_per_px : float
        Pixel size of the picture.
    size, bytes : str, int
        ``{width}x{height}`` of the picture and bytes of its file.
    center_x, center_y : float
        Joint centre in film pixels, an integer is the centre of a pixel.
    joint_from : str
        ``box`` (a list) or ``networks``.
    confidence : float
        Of the networks, 0 to 1; 1 for a box.
    flags : str
        What the networks flagged, with ``;`` between.
    points : str
        The networks' 16 landmarks in pixels of the picture, ``x,y,x,y ...``; empty for a box.
    spacing_row_mm, spacing_column_mm, spacing_kind : float, float, str
        Of the film, and where they are from: ``detector``, ``calibrated``, ``box`` or ``nominal``.
    film, film_name : str
        The film that it is from, and its name in the download.
    pixels_sha256 : str
        Of the film's grey levels: the same for copies of one film, whatever their headers say.
    """

    file: str
    subject_id: str
    visit: str
    side: str
    kl: int
    code: str
    mm_per_px: float
    size: str
    bytes: int
    center_x: float
    center_y: float
    joint_from: str
    confidence: float
    flags: str
    points: str
    spacing_row_mm: float
    spacing_column_mm: float
    spacing_kind: str
    film: str
    film_name: str
    pixels_sha256: str

    @property
    def pictures(self) -> tuple[tuple[str, int, str], ...]:
        """Name, bytes and size of its one picture."""
        return ((self.file, self.bytes, self.size),)
