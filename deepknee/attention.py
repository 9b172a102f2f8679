"""Which part of each patch spoke for a grade: three maps.

``gradcam``
    Grad-CAM of each network by itself, as in the paper: feature maps weighed by the gradient of the grade's *logit*;
    every network's negative part is cut off, then the networks are averaged.
``hirescam``
    HiResCAM of the ensemble: every pixel of the feature maps times the gradient of the grade's *probability* there; the
    networks are added, then the negative part is cut off.
``integrated``
    Integrated gradients of the grade's probability from the blurred knee to the knee: of pixels, not of feature maps,
    and complete: they sum to the difference of the two probabilities.

Grad-CAM and HiResCAM of one network and one logit are the same wherever maps are averaged and then weighed, as in
`deepknee.model.KneeNet`: its logit ``z_g = sum_c w_gc mean(A_c) + b_g`` has the gradient ``w_gc / (h w)`` in every
pixel, so both are ``sum_c w_gc A_c`` but for a factor (CAM). They differ here for two reasons. A logit may rise and its
probability fall, where another logit rises faster: the map of one network's probability is
``sum_c (w_gc - sum_k p_k w_kc) A_c``, from which what speaks for all grades alike is gone. And a network that speaks
against the grade lessens what the others say, where in Grad-CAM it counts as silent.

Dimensions: B knees, C channels, P patch pixels, M networks.

References
----------
Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391; per compartment as in Tiulpin et al., Sci Rep 8:1727, 2018.
Draelos and Carin, HiResCAM, 2020, arXiv:2011.08891.
Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017, arXiv:1703.01365.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deepknee.model import GradingNet

Method = Literal["gradcam", "hirescam", "integrated"]
METHODS: tuple[Method, ...] = get_args(Method)
BLUR_MM = 5.0  # standard deviation of the blur that leaves of a knee its shafts, but neither joint space nor spurs
SMOOTH_MM = 1.5  # of the map of single pixels before its negative part is cut off: gradients alternate along an edge
STEPS = 32  # points of the path at which gradients are taken

Maps = tuple[Tensor, ...]  # one a picture: of the lateral and the medial compartment, or of one window
Chance = Callable[[Sequence[Tensor]], Tensor]  # from what is explained to each knee's probability of its grade, (B,)


def gradcam(net: GradingNet, features: Maps, grades: Tensor) -> Maps:
    """Weigh the feature maps of every picture by what they add to the logit of a grade.

    Parameters
    ----------
    net : GradingNet
        In evaluation mode.
    features : tuple of Tensor, shapes (B, C, h, w)
        What `GradingNet.features` returned.
    grades : Tensor, shape (B,), int64
        Grade of each knee that is explained.

    Returns
    -------
    tuple of Tensor, shapes (B, h, w)
        ``relu(sum_c w_c A_c)`` of each picture, where ``w_c`` is the gradient of the grade's logit summed over the map
        ``A_c``: where maps are averaged before they are weighed, the gradient with respect to the pooled feature.
    """
    gradients = _gradients(lambda maps: of_grades(net.judge(*maps), grades), features)
    weighed = (gradient.sum((-2, -1), keepdim=True) * maps for gradient, maps in zip(gradients, features, strict=True))
    return tuple(maps.detach().sum(1).relu() for maps in weighed)


def of_grades(values: Tensor, grades: Tensor) -> Tensor:
    """Pick each knee's own grade out of logits or probabilities: (B, 5) to (B,)."""
    return values.gather(1, grades[:, None])[:, 0]


def hirescam(chance: Chance, features: Sequence[Tensor]) -> list[Tensor]:
    """Multiply feature maps by the gradient of a probability, pixel by pixel, and add up the channels.

    Parameters
    ----------
    chance : callable
        From the feature maps to the probability of each knee's grade, (B,).
    features : sequence of Tensor, shapes (B, C, h, w)
        Last feature maps, of any number of compartments and networks.

    Returns
    -------
    list of Tensor, shapes (B, h, w)
        Signed.
    """
    gradients = _gradients(chance, features)
    return [(gradient * maps.detach()).sum(1) for gradient, maps in zip(gradients, features, strict=True)]


def integrated_gradients(
    chance: Chance, inputs: Sequence[Tensor], baselines: Sequence[Tensor], steps: int = STEPS
) -> list[Tensor]:
    r"""Share the change of a probability out among pixels.

    Parameters
    ----------
    chance : callable
        From the patches to the probability of each knee's grade, (B,); F below.
    inputs, baselines : sequence of Tensor, shapes (B, ...)
        Patches x of all networks, and what they are compared with, x'.
    steps : int
        Points of the Gauss-Legendre rule that stands for the integral.

    Returns
    -------
    list of Tensor, shapes as the inputs
        :math:`(x - x') \int_0^1 \nabla F(x' + a (x - x')) da`; over all pixels of all inputs they sum to
        ``F(x) - F(x')``, as far as the rule is exact.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # of [-1, 1]
    ways = [there - start for there, start in zip(inputs, baselines, strict=True)]
    totals = [torch.zeros_like(way) for way in ways]
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        points = [start + float(node) * way for start, way in zip(baselines, ways, strict=True)]
        for total, gradient in zip(totals, _gradients(chance, points), strict=True):
            total += float(weight) * gradient
    return [way * total for way, total in zip(ways, totals, strict=True)]


def _gradients(chance: Chance, points: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of each knee's probability with respect to what it depends on."""
    with torch.enable_grad():
        leaves = [point.detach().requires_grad_() for point in points]
        return torch.autograd.grad(chance(leaves).sum(), leaves)


def blur_rois(rois: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Blur ROIs so far that the joint cannot be graded: what a knee is compared with.

    Parameters
    ----------
    rois : ndarray, shape (N, S, S), uint8
        ROIs.
    sigma_px : float
        Standard deviation of the Gaussian in pixels; `BLUR_MM` over the ROI's spacing.

    Returns
    -------
    ndarray, shape (N, S, S), uint8
        Borders are repeated outwards.
    """
    return np.stack([_gaussian(roi, sigma_px) for roi in rois]) if len(rois) else rois.copy()


def smooth_maps(maps: Tensor, sigma_px: float) -> Tensor:
    """Smooth maps, shape (B, S, S), by a Gaussian of `sigma_px` pixels; nothing lies outside them."""
    smooth = [_gaussian(one, sigma_px, cv2.BORDER_CONSTANT) for one in maps.float().cpu().numpy()]
    return torch.from_numpy(np.stack(smooth)).to(maps) if smooth else maps


def _gaussian(picture: NDArray, sigma_px: float, border: int = cv2.BORDER_REPLICATE) -> NDArray:
    return cv2.GaussianBlur(picture, (0, 0), sigma_px, borderType=border)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly, pixel centres on pixel centres: (B, h, w) to (B, rows, columns)."""
    return functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def fade_edges(maps: Tensor, width: int = 7) -> Tensor:
    """Fade maps towards their borders as the 2018 code does: the medial map after it was mirrored back.

    Parameters
    ----------
    maps : Tensor, shape (B, P, P)
        Heat maps of a patch.
    width : int
        Half the width of the box with which the window is blurred; 7 pixels in 2018.

    Returns
    -------
    Tensor, shape (B, P, P)
        Times a window of 1 inside and about 1/2 at the borders.
    """
    size = maps.shape[-1]
    window = torch.ones(1, 1, size, size, dtype=maps.dtype, device=maps.device)
    # An even box has no middle pixel: the box at x covers x - width .. x + width - 1, as in OpenCV.
    padded = functional.pad(window, (width, width - 1, width, width - 1))
    return maps * functional.avg_pool2d(padded, 2 * width, stride=1)[0, 0]


def normalize_maps(maps: Tensor) -> Tensor:
    """Stretch every map to 0 .. 1; a map that is the same everywhere becomes 0.

    Parameters
    ----------
    maps : Tensor, shape (B, S, S)
        Heat maps.

    Returns
    -------
    Tensor, shape (B, S, S)
        In [0, 1].
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    reach = high - low
    return (maps - low) / torch.where(reach > 0, reach, torch.ones_like(reach))
