"""A page of knees with their true and predicted landmarks, and the pictures behind it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from kneel.engine.snapshot import write_atomic
from kneel.imaging.radiograph import RadiographError
from kneel.imaging.schema import FEMUR, ROI_SIZE, ROI_SPACING_MM, TIBIA
from kneel.predictions import Predictions

Values = NDArray[np.float64]
_TRUTH, _PREDICTION, _ERROR = "#56B4E9", "#E69F00", "#CC79A7"
_SHOWN = 4  # knees of each kind on a page
_MARGIN_MM, _CENTER_MARGIN_MM = 12.0, 50.0  # around the points of a knee that is shown, and around a joint centre


def draw_knees(predictions: Predictions, images: Path) -> Figure:
    """Draw the best, median and worst knees, truth and prediction on the ROI.

    Parameters
    ----------
    predictions : Predictions
        Of one experiment.
    images : Path
        Folder with the ROI of every knee shown, ``{subject_id}_{kl}_{side}.png``; see `read_roi`.

    Raises
    ------
    RadiographError
        A picture is missing or does not fit.
    """
    kinds = chosen_knees(predictions.errors_mm.mean(axis=1))
    columns = max(map(len, kinds.values()))
    figure = Figure(figsize=(3.3 * columns, 3.75 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), columns, squeeze=False)
    for row, (kind, numbers) in zip(axes, kinds.items(), strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, number in zip(row, numbers, strict=False):
            _draw_knee(axis, predictions, number, images, kind)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def chosen_knees(errors_mm: Values) -> dict[str, list[int]]:
    """Choose the knees to show.

    Parameters
    ----------
    errors_mm : ndarray, shape (N,)
        Mean error of each knee.

    Returns
    -------
    dict of str to list of int
        ``best`` (best first), ``median`` and ``worst`` (worst first); no knee twice.
    """
    order = [int(number) for number in np.argsort(errors_mm, kind="stable")]
    each = min(_SHOWN, -(-len(order) // 3))
    best, worst = order[:each], order[each:][::-1][:each]
    rest = order[len(best) : len(order) - len(worst)]
    start = max(0, (len(rest) - each) // 2)
    kinds = {"best": best, "median": rest[start : start + each], "worst": worst}
    return {kind: numbers for kind, numbers in kinds.items() if numbers}


def read_roi(path: Path, mm_per_px: float) -> NDArray[np.uint8]:
    """Read the ROI of a knee and see to it that its pixels are of the right size.

    Parameters
    ----------
    path : Path
        PNG with its resolution, as ``oof_inference.py --pictures`` writes them, or a 466 x 466 ROI of KNEEL (0.3 mm).
    mm_per_px : float
        What a pixel must measure.

    Returns
    -------
    ndarray, shape (H, W), uint8
        The picture.

    Raises
    ------
    RadiographError
        The picture is missing, or is of another scale.
    """
    try:
        with Image.open(path) as image:
            picture, dpi = np.asarray(image.convert("L")), image.info.get("dpi")
    except OSError as error:
        raise RadiographError(f"{path}: {'not a picture' if path.is_file() else 'missing'}") from error
    standard = ROI_SPACING_MM if picture.shape == (ROI_SIZE, ROI_SIZE) else None
    scale = 25.4 / float(dpi[0]) if dpi else standard
    if scale is None or abs(scale / mm_per_px - 1) > 0.01:
        found = "unknown" if scale is None else f"{scale:.4g} mm"
        raise RadiographError(f"{path}: the size of its pixels is {found}, must be {mm_per_px:.4g} mm")
    return picture


def save_roi(path: Path, picture: NDArray[np.uint8], mm_per_px: float) -> None:
    """Write the ROI of a knee with its resolution; the inverse of `read_roi`.

    Parameters
    ----------
    path : Path
        PNG to write.
    picture : ndarray, shape (H, W), uint8
        The picture.
    mm_per_px : float
        What a pixel measures.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", dpi=(25.4 / mm_per_px,) * 2)
    write_atomic(path, buffer.getvalue())


def _draw_knee(axis: Axes, predictions: Predictions, number: int, images: Path, kind: str) -> None:
    knee = predictions.knees.iloc[number]
    picture = read_roi(images / f"{knee.subject_id}_{knee.kl}_{knee.side}.png", knee.mm_per_px)
    truth, points = predictions.truth[number], predictions.points[number]
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    for (x0, y0), (x1, y1) in zip(truth, points, strict=True):
        axis.plot([x0, x1], [y0, y1], color=_ERROR, linewidth=1.2)
    for bone in (TIBIA, FEMUR) if len(truth) > 1 else ():
        axis.plot(*truth[bone].T, color=_TRUTH, linewidth=0.6, alpha=0.7)
    axis.plot(*truth.T, "o", markersize=5, markerfacecolor="none", color=_TRUTH, label="annotated", linestyle="none")
    axis.plot(*points.T, "x", markersize=4.5, color=_PREDICTION, label="predicted", linestyle="none")
    both = np.concatenate([truth, points])
    margin = (_MARGIN_MM if len(truth) > 1 else _CENTER_MARGIN_MM) / knee.mm_per_px
    x, y = (both.min(axis=0) + both.max(axis=0)) / 2
    half = np.ptp(both, axis=0).max() / 2 + margin
    axis.set(xlim=(x - half, x + half), ylim=(y + half, y - half))
    errors = predictions.errors_mm[number]
    off = f"off by {errors.mean():.2f} mm" + (f" on average, {errors.max():.2f} at most" if len(errors) > 1 else "")
    axis.set_title(f"{kind}: {knee.subject_id} {knee.side}, KL {knee.kl}\n{off}", fontsize=8.5)
