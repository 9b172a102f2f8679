"""The originals' training steps, re-enacted with our modules so that both can be timed in one run on one machine.

They are no code of the authors: the same layers, inputs, losses and optimizer as their programs have, run the way they
run them: float32, NCHW, grey three times, the mixed and the clean loss summed before one backward pass, memory given
back to the system after every step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from deepknee.model import KneeNet, pool
from kneel.codec import SoftArgmax
from kneel.hourglass import HourglassNet
from kneel.losses import wing

KNEEL_SIZE = 450


def kneel_steps(batch: int, mixup: bool) -> Iterator[None]:
    """Train KNEEL's HC network: multi-scale blocks, width 24, 16 points of 450 x 450 as shares of the picture."""
    net = HourglassNet(landmarks=16, channels=3, align_corners=True).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    decode = SoftArgmax("corner").decode
    pictures = torch.randn(batch, 1, KNEEL_SIZE, KNEEL_SIZE).repeat(1, 3, 1, 1)
    points = torch.rand(batch, 16, 2)
    while True:
        optimizer.zero_grad()
        if mixup:
            share = float(torch.distributions.Beta(0.75, 0.75).sample())
            order = torch.randperm(batch)
            mixed = share * pictures + (1 - share) * pictures[order]
            clean = wing(decode(net(pictures)), points).mean()
            loss = share * clean + (1 - share) * wing(decode(net(mixed)), points[order]).mean()
        else:
            loss = wing(decode(net(pictures)), points).mean()
        loss.backward()
        optimizer.step()
        yield


def deepknee_steps(batch: int) -> Iterator[None]:
    """Train DeepKnee's Siamese network: width 64, the two patches of 128 x 128 one after the other."""
    net = KneeNet().train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-4)
    lateral, medial = torch.randn(2, batch, 1, 128, 128)
    grades = torch.randint(0, 5, (batch,))
    while True:
        optimizer.zero_grad()
        logits = net.classify(pool(net.branch(lateral)), pool(net.branch(medial)))
        functional.cross_entropy(logits, grades).backward()
        optimizer.step()
        yield
