"""The Gaussian blur of training pictures, for both packages."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray


def gaussian_blur(picture: NDArray[np.float32], width: int, sigma: float) -> NDArray[np.float32]:
    """Blur a picture by rows and then by columns.

    The outcome is torchvision's, which convolves with the whole two-dimensional kernel and takes ten times as long.

    Parameters
    ----------
    picture : ndarray, shape (H, W), float32
        Grey values; either side at least half the kernel long.
    width : int
        Odd width of the kernel, pixels.
    sigma : float
        Standard deviation, pixels; above 0.

    Returns
    -------
    ndarray, shape (H, W), float32
        Mirrored at the borders, whose own pixels are not repeated.
    """
    blurred = cv2.GaussianBlur(picture, (width, width), sigma, borderType=cv2.BORDER_REFLECT_101)
    return cast(NDArray[np.float32], blurred)
