"""Sides of the femur and the tibia, from a corner landmark to the end of the shaft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from kneel.phantom.curves import STEP_MM, through_x

SHAFT_MM = 260.0  # how far shafts run from the joint: past the border of any film

# Two rows: distance from the joint (mm); half width of the bone in units of its half width at the corner landmarks.
# Read off films.
TIBIA_MEDIAL = np.array([[9, 14, 20, 32, 46, 62, 85, 130], [1.01, 1.0, 0.96, 0.83, 0.68, 0.54, 0.43, 0.37]])
TIBIA_LATERAL = np.array([[9, 14, 22, 32, 46, 62, 85, 130], [1.02, 1.03, 0.98, 0.83, 0.63, 0.5, 0.42, 0.37]])
FEMUR_MEDIAL = np.array(
    [
        [8, 12, 18, 24, 31, 37, 43, 50, 62, 80, 105, 140],
        [1.06, 1.06, 1.03, 1.07, 1.12, 1.11, 1.03, 0.86, 0.64, 0.49, 0.43, 0.41],
    ]
)
FEMUR_LATERAL = np.array(
    [
        [8, 12, 18, 24, 31, 36, 43, 52, 64, 80, 105, 140],
        [1.05, 1.03, 1.01, 1.08, 1.13, 1.1, 0.99, 0.82, 0.61, 0.49, 0.43, 0.41],
    ]
)
_TABLE_HALF_MM = 37.0  # half width of the bones that the tables were read off


@dataclass(frozen=True)
class BoneEnd:
    """Axes of a bone end: along the line between its two corner landmarks, and away from the joint.

    Attributes
    ----------
    middle : ndarray, shape (2,)
        Midpoint of the corners in mm.
    across : ndarray, shape (2,)
        Unit vector from the lateral to the medial corner.
    away : ndarray, shape (2,)
        Unit vector from the joint towards the shaft.
    half : float
        Half the distance of the corners in mm.
    """

    middle: NDArray[np.float64]
    across: NDArray[np.float64]
    away: NDArray[np.float64]
    half: float

    @classmethod
    def between(cls, lateral: NDArray[np.float64], medial: NDArray[np.float64], *, down: int) -> BoneEnd:
        """Lay the axes through two corners.

        Parameters
        ----------
        lateral, medial : ndarray, shape (2,)
            Corner landmarks in mm.
        down : {1, -1}
            1 when the shaft lies below the joint, -1 above.

        Returns
        -------
        BoneEnd
            The axes.
        """
        width = float(np.hypot(*(medial - lateral)))
        across = (medial - lateral) / width
        return cls((lateral + medial) / 2, across, down * np.array([-across[1], across[0]]), width / 2)

    def wall(
        self, corner: NDArray[np.float64], table: NDArray[np.float64], spur: float, tilt: float, rng: Generator
    ) -> NDArray[np.float64]:
        """Draw one side of the bone.

        Parameters
        ----------
        corner : ndarray, shape (2,)
            The corner landmark that it starts from.
        table : ndarray, shape (2, k)
            Distance and half width, as above.
        spur : float
            Length in mm of the osteophyte that ends at the landmark.
        tilt : float
            Tangent of the shaft's lean, positive to medial.
        rng : Generator
            Small variations and roughness.

        Returns
        -------
        ndarray, shape (n, 2)
            (x, y) in mm; the first is the landmark.
        """
        sign = np.sign((corner - self.middle) @ self.across)
        distance = table[0] * rng.normal(1, 0.05)
        width = table[1] + rng.normal(0, 0.012, table.shape[1])
        base = 2.5 + 0.8 * spur
        keep = distance > base + 2
        body = self.half * width[keep] - 0.6 * spur * np.exp(-(distance[keep] - base) / 8)
        along = np.maximum(distance[keep] * self.half / _TABLE_HALF_MM, base + 1 + np.arange(keep.sum()) / 10)
        away, out = through_x([*self._lip(spur, base), *np.column_stack([along, body]), (SHAFT_MM, body[-1])]).T
        # away from its lips bone has no kinks, only a little roughness
        soft = gaussian_filter1d(out, 2.5 / STEP_MM, mode="nearest")
        rough = gaussian_filter1d(rng.standard_normal(len(out)), 1.2 / STEP_MM) * rng.uniform(0.2, 0.7)
        out += (soft - out + rough * np.exp(-away / 40)) * np.clip((away - base - 1) / 6, 0, 1)
        lean = tilt * 12 * np.logaddexp(0, (away - 25) / 12)  # straight at the joint, tilted from 25 mm on
        lean -= lean[0]
        return self.middle + np.outer(sign * out + lean, self.across) + np.outer(away, self.away)

    def _lip(self, spur: float, base: float) -> list[tuple[float, float]]:
        """First points of a wall: (away, out).

        Without osteophyte the corner is round and the landmark lies on the rounding. An osteophyte ends at the
        landmark; behind it the wall retreats.
        """
        roundness = float(np.exp(-spur / 1.2))
        return [
            (0, self.half),
            (0.6 + 0.3 * spur, self.half + 0.8 * roundness - 0.2 * spur),
            (base, self.half + 1.8 * roundness - 0.6 * spur),
        ]
