"""What a DICOM header says about a film: millimetres, side, view, identity. Garbage in a tag counts as absence."""

from __future__ import annotations

import math
import re
from typing import cast

from kneel.imaging.header import Header
from kneel.imaging.radiograph import Laterality, RadiographError, SpacingKind

Spacing = tuple[float, float]

_PLAUSIBLE_MM = (0.005, 10.0)
"""Finest and coarsest believable spacing of a plain film. Others are micrometres, metres or rubbish."""
_SAME = 1e-3
"""Relative difference up to which two spacings are the same number, differently rounded."""

_MAGNIFICATION = "EstimatedRadiographicMagnificationFactor"

_SIDES: dict[tuple[str, str], Laterality] = {
    ("SCT", "7771000"): "L",
    ("SCT", "24028007"): "R",
    ("SCT", "51440002"): "B",
    ("SRT", "G-A101"): "L",
    ("SRT", "G-A100"): "R",
    ("SRT", "G-A102"): "B",
}
_VIEWS = {  # as in pydicom.sr.codes, which takes a fifth of a second to import
    ("SCT", "399348003"): "AP",
    ("SCT", "272479007"): "PA",
    ("SRT", "R-10206"): "AP",
    ("SRT", "R-10214"): "PA",
}

_PA = re.compile(r"(?<![A-Z])PA(?![A-Z])|POSTERO.?ANTERIOR")  # PA_FLEXION is, PATELLA is not
_AP = re.compile(r"(?<![A-Z])AP(?![A-Z])|ANTERO.?POSTERIOR")


def valid_spacing(values: tuple[float, ...] | None) -> Spacing | None:
    """Return (row, column) millimetres if they are two believable lengths, otherwise None.

    Examples
    --------
    >>> valid_spacing((0.143, 0.143))
    (0.143, 0.143)
    >>> valid_spacing((0.143, 0.0)) is None
    True
    """
    if values is None or len(values) != 2:
        return None
    low, high = _PLAUSIBLE_MM
    return (values[0], values[1]) if all(math.isfinite(v) and low <= v <= high for v in values) else None


def read_spacing(header: Header) -> tuple[Spacing | None, SpacingKind]:
    """Find the distance between pixels, and whether it is in the patient or at the detector (PS3.3 10.7.1).

    =============  ====================  ================  ======================================================
    Pixel Spacing  detector's spacing    calibration type  answer
    =============  ====================  ================  ======================================================
    yes            any or none           yes               Pixel Spacing, calibrated
    yes            another               no                Pixel Spacing, calibrated: so 10.7.1.1 tells them apart
    yes            the same              no                the detector's / magnification, demagnified
    yes            none                  no                Pixel Spacing, detector: "cannot be determined" (10.7.1.1)
    no             yes                   any               the detector's / magnification, demagnified
    no             none                  any               None, none
    =============  ====================  ================  ======================================================

    The detector's spacing is Imager Pixel Spacing or, for digitised film, Nominal Scanned Pixel Spacing.
    Magnification is Estimated Radiographic Magnification Factor if it is a number from 1 to 2, else 1, and with 1 the
    answer is the detector's, detector; a Pixel Spacing of unknown origin is not divided, because it may have been
    already. A spacing that is not two lengths from 0.005 to 10 mm is as good as absent.

    Returns
    -------
    spacing_mm : (float, float) or None
        Row, then column.
    spacing_kind : {"calibrated", "detector", "demagnified", "none"}
    """
    pixel, detector = valid_spacing(header.numbers("PixelSpacing")), _detector(header)
    typed = (header.text("PixelSpacingCalibrationType") or "").upper() in ("GEOMETRY", "FIDUCIAL")
    if pixel is not None:
        same = detector is not None and all(
            math.isclose(p, d, rel_tol=_SAME) for p, d in zip(pixel, detector, strict=True)
        )
        if typed or (detector is not None and not same):
            return pixel, "calibrated"
        if detector is None:
            return pixel, "detector"
    if detector is None:
        return None, "none"
    factor = _magnification(header)
    return (detector[0] / factor, detector[1] / factor), "detector" if factor == 1 else "demagnified"


def ignores_magnification(header: Header) -> bool:
    """Say whether `read_spacing` answers in the detector's millimetres though the header has a magnification factor."""
    if read_spacing(header)[1] != "detector":
        return False
    try:
        return header.get(_MAGNIFICATION) is not None and header.numbers(_MAGNIFICATION) != (1.0,)
    except RadiographError:  # it is there, and is no number
        return True


def read_detector_spacing(header: Header) -> Spacing | None:
    """Find the distance between pixels at the detector, where a knee is magnified; None where that is not told.

    The detector's spacing of `read_spacing`, by nothing divided, else a Pixel Spacing that nothing calls calibrated.
    """
    spacing, kind = read_spacing(header)
    return _detector(header) or (spacing if kind == "detector" else None)


def _detector(header: Header) -> Spacing | None:
    found = (valid_spacing(header.numbers(tag)) for tag in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"))
    return next(filter(None, found), None)


def read_laterality(header: Header) -> Laterality | None:
    """Find the side: Image Laterality, else Laterality of the series, else the one coded modifier of the region."""
    if named := _named_sides(header):
        return named[0]
    found = {
        _SIDES[code]
        for region in _items(header, "AnatomicRegionSequence")
        for modifier in _items(region, "AnatomicRegionModifierSequence")
        if (code := _code(modifier)) in _SIDES
    }
    return found.pop() if len(found) == 1 else None


def contradicts_side(header: Header) -> bool:
    """Say whether Image Laterality and Laterality of the series name different sides."""
    return len(set(_named_sides(header))) > 1


def _named_sides(header: Header) -> list[Laterality]:
    words = ((header.text(keyword) or "").upper() for keyword in ("ImageLaterality", "Laterality"))
    return [cast(Laterality, word) for word in words if word in ("L", "R", "B")]


def read_view(header: Header) -> tuple[str | None, str | None]:
    """Find the view: View Position, else View Code Sequence: AP, PA, or the meaning written with another code.

    Returns
    -------
    view : str or None
    other_view : str or None
        View Code Sequence where it contradicts View Position: one of them is frontal, the other is not.
    """
    position = (header.text("ViewPosition") or "").upper() or None
    coded = None
    for item in _items(header, "ViewCodeSequence")[:1]:
        coded = _VIEWS.get(_code(item)) or item.text("CodeMeaning")
    if position is None or coded is None:
        return position or coded, None
    return position, coded if is_frontal(position) != is_frontal(coded) else None


def is_frontal(view: str) -> bool:
    """Say whether a view, as `read_view` gives it, is antero-posterior or the reverse.

    Examples
    --------
    >>> is_frontal("PA"), is_frontal("AP_STANDING"), is_frontal("LATERAL"), is_frontal("PATELLA")
    (True, True, False, False)
    """
    return is_pa(view) or _AP.search(view.upper()) is not None


def is_pa(view: str) -> bool:
    """Say whether a view, as `read_view` gives it, is postero-anterior.

    Examples
    --------
    >>> is_pa("PA_FLEXION"), is_pa("postero-anterior"), is_pa("AP"), is_pa("PATELLA")
    (True, True, False, False)
    """
    return _PA.search(view.upper()) is not None


def read_orientation(header: Header) -> tuple[bool, bool, str | None]:
    """Say how the film lies, by Patient Orientation (PS3.3 C.7.6.1.1.1).

    Returns
    -------
    columns_reversed : bool
        Columns run towards the patient's right. The first value is the direction of the rows, that is of increasing
        columns: ``L`` on a film seen from the front, whose left edge is the patient's right. ``R`` is the reverse.
    rows_reversed : bool
        Rows run towards the head. The second value is the direction of the columns, that is of increasing rows: ``F``
        on a film that stands upright, ``H`` on one that lies upside down.
    on_side : str or None
        The tag's text where the film lies on its side: the first value is ``F`` or ``H``, so that the rows run along
        the legs.
    """
    text = header.text("PatientOrientation") or ""
    columns, _, rows = text.upper().partition("\\")
    on_side = text if columns.startswith(("F", "H")) else None
    return columns.startswith("R"), rows.strip().startswith("H"), on_side


def _magnification(header: Header) -> float:
    """Return how much larger the detector's image is than the knee."""
    factor = header.numbers(_MAGNIFICATION)
    return factor[0] if factor is not None and len(factor) == 1 and 1 <= factor[0] <= 2 else 1.0


def _items(header: Header, keyword: str) -> list[Header]:
    """Return the items of a sequence; empty when it is absent or unreadable."""
    try:
        return header.items(keyword)
    except ValueError:
        return []


def _code(item: Header) -> tuple[str, str]:
    """Return (scheme, value) of a coded entry; the older names of one scheme are joined."""
    scheme = item.text("CodingSchemeDesignator") or ""
    return ("SRT" if scheme in ("SNM3", "99SDM") else scheme), item.text("CodeValue") or ""
