"""What is done to the pixels of a whole batch, to each picture in its own way, on the device where the batch lies.

Nothing here is a convolution or a matrix product: on a GPU these may round to TF32's ten bits.
"""

from functools import reduce

import cv2
import torch
from torch import Tensor


def by_picture(values: Tensor) -> Tensor:
    """Shape a number of every picture (B,) so that it meets (B, C, H, W)."""
    return values[:, None, None, None]


def blur(pictures: Tensor, sigmas: Tensor, width: int) -> Tensor:
    """
    Blur every picture with a Gaussian of its own, by rows and then by columns.

    The outcome is torchvision's, to rounding, which convolves with the whole two-dimensional kernel and takes ten times
    as long. On a CPU OpenCV does it.

    Parameters
    ----------
    pictures
        Shape (B, 1, H, W), float32; either side at least half the kernel long.
    sigmas
        Shape (B,): standard deviations in pixels; 0 for no blur.
    width
        Odd width of the kernel, pixels.

    Returns
    -------
    Tensor
        Shape (B, 1, H, W). Mirrored at the borders, whose own pixels are not repeated.
    """
    return (_blur_on_cpu if pictures.device.type == "cpu" else _blur_on_device)(pictures, sigmas, width)


def _blur_on_cpu(pictures: Tensor, sigmas: Tensor, width: int) -> Tensor:
    blurred = pictures.clone()
    for picture, sigma in zip(blurred[:, 0].numpy(), sigmas.tolist(), strict=True):
        if sigma:
            picture[:] = cv2.GaussianBlur(picture, (width, width), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _blur_on_device(pictures: Tensor, sigmas: Tensor, width: int) -> Tensor:
    x = torch.arange(width, device=pictures.device) - (width - 1) / 2
    sigmas = sigmas.to(pictures.dtype).clamp(min=0.01)  # which leaves the middle alone
    kernels = (-0.5 * (x / sigmas[:, None]).square()).softmax(1)
    half, (high, wide) = width // 2, pictures.shape[-2:]
    padded = torch.nn.functional.pad(pictures, (half, half, half, half), "reflect")
    weights = [by_picture(weight) for weight in kernels.unbind(1)]
    across = reduce(torch.add, (weight * padded[..., at : at + wide] for at, weight in enumerate(weights)))
    return reduce(torch.add, (weight * across[..., at : at + high, :] for at, weight in enumerate(weights)))
