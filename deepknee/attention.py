"""Grad-CAM: which part of each patch spoke for a grade.

Dimensions: B knees, C channels, P patch pixels.

References
----------
Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391; per compartment as in Tiulpin et al., Sci Rep 8:1727, 2018.
"""

import torch
from torch import Tensor
from torch.nn import functional

from deepknee.model import KneeNet, pool


def gradcam(net: KneeNet, features: tuple[Tensor, Tensor], grades: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh the feature maps of both compartments by what they add to the logit of a grade.

    Parameters
    ----------
    net : KneeNet
        In evaluation mode.
    features : (Tensor, Tensor), shapes (B, C, h, w)
        Lateral and medial maps from `KneeNet.features`.
    grades : Tensor, shape (B,), int64
        Grade of each knee whose logit is explained.

    Returns
    -------
    lateral, medial : Tensor, shape (B, h, w)
        Sum over channels of the maps times the gradient of that logit with respect to the pooled maps; negative sums
        are 0.
    """
    with torch.enable_grad():
        pooled = [pool(maps).detach().requires_grad_() for maps in features]
        logits = net.classify(*pooled)
        gradients = torch.autograd.grad(logits.gather(1, grades[:, None]).sum(), pooled)
    lateral, medial = (
        functional.relu(torch.einsum("bc,bchw->bhw", weight, maps.detach()))
        for weight, maps in zip(gradients, features, strict=True)
    )
    return lateral, medial


def enlarge(maps: Tensor, size: int) -> Tensor:
    """Resize maps bilinearly, pixel centres on pixel centres: (B, h, w) to (B, size, size)."""
    return functional.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]


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
