"""Heat maps <-> points: the only place where a network's answer becomes coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kneel.engine.precision import at_least_float32


@dataclass(frozen=True)
class SoftArgmax:
    """Two-dimensional soft-argmax: the expected position under the softmax of the map.

    Points leave as shares (u, v) of the image, so that a map of any stride speaks of the same image.

    Attributes
    ----------
    grid : {"center", "corner"}
        Where cell i of w sits: its centre ``(i + 0.5) / w`` (``u = (x + 0.5) / W``, the project's convention), or
        ``i / w`` (``u = x / W``), kept for weights trained by KNEEL's authors. A corner map of 4 cells answers at most
        0.75.
    beta : float
        Temperature: the map is multiplied by it before the softmax.
    """

    grid: Literal["center", "corner"] = "center"
    beta: float = 1.0

    @property
    def _offset(self) -> float:
        return 0.5 if self.grid == "center" else 0.0

    def encode(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixels to shares, the inverse of `to_pixels`.

        Parameters
        ----------
        points : Tensor, shape (..., 2)
            (x, y) in pixels of the image, an integer being the centre of a pixel.
        size : (int, int)
            Width and height of the image.

        Returns
        -------
        Tensor, shape (..., 2)
            (u, v), as `decode` gives them.
        """
        return (points + self._offset) / points.new_tensor(size)

    def to_pixels(self, shares: Tensor, size: tuple[int, int]) -> Tensor:
        """Shares to pixels.

        Parameters
        ----------
        shares : Tensor, shape (..., 2)
            (u, v) from `decode`.
        size : (int, int)
            Width and height of the image that the network saw.

        Returns
        -------
        Tensor, shape (..., 2)
            (x, y) in pixels.
        """
        return shares * shares.new_tensor(size) - self._offset

    def decode(self, heatmaps: Tensor) -> Tensor:
        """Expected position of every map.

        Parameters
        ----------
        heatmaps : Tensor, shape (B, M, h, w)
            Scores before softmax.

        Returns
        -------
        Tensor, shape (B, M, 2), float32
            (u, v) shares of the image.
        """
        columns, rows = self._marginals(heatmaps)
        # products and sums, not matmul, which autocast would round to bfloat16
        return torch.stack([(share * self._cells(share)).sum(-1) for share in (columns, rows)], dim=-1)

    def spread(self, heatmaps: Tensor, size: tuple[int, int]) -> Tensor:
        """Root mean square distance of the softmax from its mean: how sure a map is of its point.

        Parameters
        ----------
        heatmaps : Tensor, shape (B, M, h, w)
            Scores before softmax.
        size : (int, int)
            Width and height of the image that the network saw.

        Returns
        -------
        Tensor, shape (B, M), float32
            Pixels of the image; 0.01 when all lies in one cell, where the root would have no slope.
        """
        variance = torch.zeros((), device=heatmaps.device)
        for share, length in zip(self._marginals(heatmaps), size, strict=True):
            cells = self._cells(share) * length
            mean = (share * cells).sum(-1)
            variance = variance + (share * (cells - mean[..., None]) ** 2).sum(-1)
        return (variance + 1e-4).sqrt()

    def _marginals(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax summed over rows (B, M, w) and over columns (B, M, h)."""
        # float32 also under autocast: a bfloat16 sum over 12,000 cells is off by pixels
        scores = at_least_float32(heatmaps) * self.beta
        probability = scores.flatten(2).softmax(-1).view_as(scores)
        return probability.sum(-2), probability.sum(-1)

    def _cells(self, marginal: Tensor) -> Tensor:
        count = marginal.shape[-1]
        return (torch.arange(count, dtype=torch.float32, device=marginal.device) + self._offset) / count
