"""Mixup of a batch of radiographs, in the two forms that go by this name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Variant = Literal["kneel", "zhang"]


def mixup_loss(
    images: Tensor,
    loss: Callable[[Tensor, Tensor | None], Tensor],
    *,
    alpha: float,
    variant: Variant = "kneel",
) -> Tensor:
    """Loss of a batch mixed with its own permutation, ``x' = lam x + (1 - lam) x[perm]``, ``lam ~ Beta(alpha, alpha)``.

    ======= ==========================================================
    kneel   ``lam L(net(x), y) + (1 - lam) L(net(x'), y[perm])``
    zhang   ``lam L(net(x'), y) + (1 - lam) L(net(x'), y[perm])``
    ======= ==========================================================

    The first is what KNEEL's authors trained with (the first term sees the CLEAN batch), the second Zhang et al.,
    mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Parameters
    ----------
    images : Tensor, shape (B, C, H, W)
        Normalised batch.
    loss : callable
        ``loss(images, perm)`` runs the network on images and compares it with the targets in the order of `perm`
        (None: as they are).
    alpha : float
        Parameter of the Beta distribution, > 0.
    variant : {"kneel", "zhang"}
        Which of the two.

    Returns
    -------
    Tensor, shape ()
        The mixed loss.
    """
    # on the CPU generator, which the engine seeds, whatever the device of the batch
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    perm = torch.randperm(len(images)).to(images.device)
    return mixed_loss(images, loss, lam=lam, perm=perm, variant=variant)


def mixed_loss(
    images: Tensor,
    loss: Callable[[Tensor, Tensor | None], Tensor],
    *,
    lam: float,
    perm: Tensor,
    variant: Variant,
) -> Tensor:
    """`mixup_loss` for given ``lam`` and ``perm``.

    Parameters
    ----------
    images, loss, variant
        As in `mixup_loss`.
    lam : float
        Share of the batch itself, in [0, 1].
    perm : Tensor, shape (B,)
        Partner of each image.

    Returns
    -------
    Tensor, shape ()
        The mixed loss.
    """
    mixed = lam * images + (1 - lam) * images[perm]
    if variant == "kneel":
        return lam * loss(images, None) + (1 - lam) * loss(mixed, perm)
    return lam * loss(mixed, None) + (1 - lam) * loss(mixed, perm)
