"""Mixup of a batch of radiographs, in the two forms that go by this name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kneel.engine.parallel import own_rows, whole_batch

Variant = Literal["kneel", "zhang"]


class Pass(NamedTuple):
    """One pass through the network, and what its answer is compared with.

    Attributes
    ----------
    images : Tensor, shape (B, C, H, W)
        What the network sees.
    targets : tuple of (float, Tensor of shape (B,) or None)
        Weight of the loss against the whole batch's targets in this order; None is their own.
    """

    images: Tensor
    targets: tuple[tuple[float, Tensor | None], ...]


def mixup_passes(images: Tensor, *, alpha: float, variant: Variant = "kneel") -> Iterator[Pass]:
    """Mix a batch with its own permutation, ``x' = lam x + (1 - lam) x[perm]``, ``lam ~ Beta(alpha, alpha)``.

    Where several processes share a batch, partners come from all of it (`kneel.engine.parallel.whole_batch`).

    ======= =================================================================
    kneel   ``lam L(net(x), y) + (1 - lam) L(net(x'), y[perm])``, two passes
    zhang   ``lam L(net(x'), y) + (1 - lam) L(net(x'), y[perm])``, one pass
    ======= =================================================================

    The first is what KNEEL's authors trained with (the first term sees the CLEAN batch), the second Zhang et al.,
    mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Parameters
    ----------
    images : Tensor, shape (B, C, H, W)
        Grey values on any scale.
    alpha : float
        Parameter of the Beta distribution, > 0.
    variant : {"kneel", "zhang"}
        Which of the two.

    Returns
    -------
    iterator of Pass
        The loss is the sum over the passes; a pass can be forgotten before the next one begins.
    """
    # on the CPU generator, which the engine seeds, whatever the device of the batch
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    everyone = whole_batch(images)
    perm = torch.randperm(len(everyone))[own_rows(len(everyone))].to(images.device)
    return mixed_passes(images, lam=lam, perm=perm, variant=variant, partners=everyone)


def mixed_passes(
    images: Tensor, *, lam: float, perm: Tensor, variant: Variant, partners: Tensor | None = None
) -> Iterator[Pass]:
    """`mixup_passes` for given ``lam`` and ``perm``.

    Parameters
    ----------
    images, variant
        As in `mixup_passes`.
    lam : float
        Share of the batch itself, in [0, 1].
    perm : Tensor, shape (B,)
        Partner of each image.
    partners : Tensor, optional
        What `perm` counts in; None are the images themselves.

    Yields
    ------
    Pass
        Of the authors' form first the clean batch, then the mixed one.
    """
    mixed = lam * images + (1 - lam) * (images if partners is None else partners)[perm]
    if variant == "kneel":
        yield Pass(images, ((lam, None),))
        yield Pass(mixed, ((1 - lam, perm),))
    else:
        yield Pass(mixed, ((lam, None), (1 - lam, perm)))
