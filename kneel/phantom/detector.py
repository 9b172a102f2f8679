"""From attenuation to stored values: beam, scatter, blur, quantum noise, and the vendor's processing."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

_COARSE = 8  # grid of scatter and of the processing's low-pass
_SCATTER_MM = 25.0  # standard deviation of the scatter's spread
_FLATTENING_MM = 18.0
_DARKEST = 1e-5  # least transmission that is told from none


@dataclass(frozen=True)
class Exposure:
    """How a film was taken and processed. Drawn without looking at the grade.

    Attributes
    ----------
    scatter : float
        Scatter-to-primary ratio behind the grid.
    blur_mm : float
        Standard deviation of the detector's point spread function.
    noise : float
        Relative quantum noise of a pixel in the middle of the leg.
    heel : float
        Relative change of the beam from top to bottom.
    sharpening, reach_mm : float
        Gain and width of the unsharp mask.
    flattening : float
        Share of the slow changes of density that is taken out (dynamic range compression).
    contrast, brightness : float
        Slope and shift of the display curve, in units of the leg's own range.
    linear : bool
        Stored values follow transmission instead of its logarithm, without processing: bones come out pale and flat.
    """

    scatter: float
    blur_mm: float
    noise: float
    heel: float
    sharpening: float
    reach_mm: float
    flattening: float
    contrast: float
    brightness: float
    linear: bool

    @classmethod
    def draw(cls, rng: Generator) -> Exposure:
        """Draw an exposure.

        Parameters
        ----------
        rng : Generator
            Source of randomness.

        Returns
        -------
        Exposure
            The exposure.
        """
        linear = bool(rng.random() < 0.08)
        processed = not linear  # the curve of transmission is too flat in bone to take local contrast away or add it
        return cls(
            scatter=float(rng.uniform(0.15, 0.9)),
            blur_mm=float(rng.uniform(0.1, 0.2)),
            noise=float(rng.uniform(0.006, 0.022)),
            heel=float(rng.normal(0, 0.06)),
            sharpening=float(rng.uniform(0.1, 1.0) * (rng.random() < 0.7) * processed),
            reach_mm=float(np.exp(rng.uniform(np.log(1.5), np.log(15)))),
            flattening=float(rng.uniform(0.0, 0.6) * processed),
            contrast=float(rng.uniform(0.75, 1.15)),
            brightness=float(rng.normal(0.04, 0.08)),
            linear=linear,
        )


def expose(attenuation: NDArray, spacing_mm: float, exposure: Exposure, rng: Generator | None) -> NDArray:
    """Return the transmitted intensity at the detector.

    Parameters
    ----------
    attenuation : ndarray, shape (H, W)
        Line integrals.
    spacing_mm : float
        Pixel size.
    exposure : Exposure
        Beam and detector.
    rng : Generator or None
        Quantum noise; None leaves it out.

    Returns
    -------
    ndarray, shape (H, W)
        Open beam = 1.
    """
    intensity = cv2.exp(-attenuation)
    height, width = intensity.shape
    low = _shrink(intensity)
    scattered = _smooth(low, _SCATTER_MM / spacing_mm)
    heel = 1 + exposure.heel * np.linspace(-1, 1, len(low), dtype=np.float32)[:, None]
    intensity += _grow(np.float32(exposure.scatter) * scattered, (height, width))
    intensity *= _grow(np.broadcast_to(heel, low.shape).astype(np.float32), (height, width))
    intensity = cv2.GaussianBlur(intensity, (0, 0), max(exposure.blur_mm / spacing_mm, 0.3))
    if rng is not None:
        # Poisson counts: variance in proportion to the intensity, fixed where the leg is thick
        reference = float(np.median(low[low < 0.5])) if (low < 0.5).any() else 1.0
        noise: NDArray = rng.standard_normal((height, width), dtype=np.float32)
        noise *= cv2.sqrt(intensity)
        noise *= np.float32(exposure.noise * np.sqrt(reference))
        intensity += noise
    return np.maximum(intensity, np.float32(_DARKEST))


def develop(intensity: NDArray, spacing_mm: float, exposure: Exposure) -> NDArray:
    """Turn intensity into display values as a vendor's processing does.

    Parameters
    ----------
    intensity : ndarray, shape (H, W)
        Of `expose`.
    spacing_mm : float
        Pixel size.
    exposure : Exposure
        Processing.

    Returns
    -------
    ndarray, shape (H, W)
        0 (air) to 1 (metal).
    """
    density = 1 - intensity if exposure.linear else -cv2.log(intensity)
    low = _shrink(density)
    leg = low > (0.5 if exposure.linear else 0.7)
    # unsharp masking and dynamic range compression, both with low-passes that live on the coarse grid
    gain = np.float32(exposure.sharpening)
    change = -gain * _smooth(low, exposure.reach_mm / spacing_mm)
    change -= np.float32(exposure.flattening) * _smooth(low, _FLATTENING_MM / spacing_mm)
    low, density = (1 + gain) * low + change, (1 + gain) * density + _grow(change, density.shape)
    bottom, top = np.percentile(low[leg] if leg.any() else low, [40 if exposure.linear else 10, 98])
    middle = (bottom + top) / 2 - exposure.brightness * (top - bottom)
    slope = np.float32(3.4 * exposure.contrast / max(top - bottom, 1e-3))
    return 1 / (1 + cv2.exp(-slope * (density - np.float32(middle))))


def _shrink(image: NDArray) -> NDArray:
    height, width = image.shape
    return cv2.resize(image, (-(-width // _COARSE), -(-height // _COARSE)), interpolation=cv2.INTER_AREA)


def _grow(image: NDArray, shape: tuple[int, ...]) -> NDArray:
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _smooth(image: NDArray, sigma_px: float) -> NDArray:
    """Gaussian on the coarse grid; sigma in film pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma_px / _COARSE, borderType=cv2.BORDER_REPLICATE)
