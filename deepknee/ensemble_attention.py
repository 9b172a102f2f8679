"""Attention of several networks, of one kind or of several, as one map on the grid of the ROI.

What the networks' maps have in common is a unit: how much of a logit (Grad-CAM) or a probability (HiResCAM, integrated
gradients) a pixel of the ROI stands for. In it they are added, however coarse the feature maps are that they come from.

Dimensions: B knees, M networks, S ROI pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepknee.attention import (
    STEPS,
    Maps,
    enlarge,
    fade_edges,
    gradcam,
    hirescam,
    integrated_gradients,
    of_grades,
)
from deepknee.model import GradingNet
from deepknee.views import View

Classify = Callable[[Sequence[Maps]], Tensor]  # from the feature maps of all networks to probabilities, (B, 5)


def ensemble_gradcam(
    nets: Sequence[GradingNet], views: Sequence[View], features: Sequence[Maps], grades: Tensor, *, fade: bool = False
) -> Tensor:
    """Average the Grad-CAM of M networks.

    Parameters
    ----------
    nets : sequence of GradingNet
        In evaluation mode.
    views : sequence of View
        What each of them sees.
    features : sequence of tuple of Tensor, shapes (B, C, h, w)
        Of each network, a tensor a picture.
    grades : Tensor, shape (B,), int64
        Grade of each knee that is explained.
    fade : bool
        Fade the two patches towards their borders as in 2018.

    Returns
    -------
    Tensor, shape (B, S, S)
        0 or more: the mean over a patch is what its pooled features add to the logit, before the negative part is cut.
    """
    cams = [gradcam(net, maps, grades) for net, maps in zip(nets, features, strict=True)]
    return torch.stack([_lay(view, maps, fade=fade) for view, maps in zip(views, cams, strict=True)]).mean(0)


def ensemble_hirescam(views: Sequence[View], features: Sequence[Maps], grades: Tensor, classify: Classify) -> Tensor:
    """Add up the HiResCAM of M networks, then cut off what is negative.

    Parameters
    ----------
    views, features, grades
        As for `ensemble_gradcam`.
    classify : callable
        From the feature maps of all networks to the ensemble's probabilities, (B, 5).

    Returns
    -------
    Tensor, shape (B, S, S)
        0 or more.
    """

    def chance(flat: Sequence[Tensor]) -> Tensor:
        return of_grades(classify(_by_network(flat, features)), grades)

    # the share of a pixel of the feature maps is spread over as many pixels of the ROI as it covers
    maps = [part * part.shape[-2:].numel() for part in hirescam(chance, _flat(features))]
    laid = [_lay(view, own) for view, own in zip(views, _by_network(maps, features), strict=True)]
    return torch.stack(laid).sum(0).relu()


def pixel_shares(
    nets: Sequence[GradingNet],
    patches: Sequence[Maps],
    blurred: Sequence[Maps],
    grades: Tensor,
    classify: Classify,
    steps: int = STEPS,
) -> list[Maps]:
    """Share a probability out among the pixels of all pictures by integrated gradients, all networks together.

    Parameters
    ----------
    nets, grades, classify
        As above.
    patches, blurred : sequence of tuple of Tensor, shapes (B, 1, P, Q)
        What each network sees, and what that is compared with.
    steps : int
        As for `integrated_gradients`.

    Returns
    -------
    list of tuple of Tensor, shapes (B, P, Q)
        Of each network and picture, signed; the sum over all is the probability of `patches` less that of `blurred`.
    """

    def chance(flat: Sequence[Tensor]) -> Tensor:
        parts = zip(nets, _by_network(flat, patches), strict=True)
        return of_grades(classify([net.features(*seen) for net, seen in parts]), grades)

    shares = integrated_gradients(chance, _flat(patches), _flat(blurred), steps)
    return _by_network([share.sum(1) for share in shares], patches)


def _lay(view: View, maps: Maps, *, fade: bool = False) -> Tensor:
    """Lay coarse maps on the ROI, (B, S, S), so that the sum over a picture there is the mean over its map."""
    large = [enlarge(each, view.size) for each in maps]
    if fade:  # not symmetric: it acts on the medial map as it lies in the picture
        lateral, medial = large
        large = [fade_edges(lateral), fade_edges(medial.flip(-1)).flip(-1)]
    rows, columns = view.size
    return view.merge(*large) / (rows * columns)


def _flat(parts: Sequence[Maps]) -> list[Tensor]:
    return [part for network in parts for part in network]


def _by_network(flat: Sequence[Tensor], parts: Sequence[Maps]) -> list[Maps]:
    """Undo `_flat`, in the grouping of `parts`."""
    rest = iter(flat)
    return [tuple(next(rest) for _ in network) for network in parts]
