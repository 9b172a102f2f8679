"""ResNet-34, the baseline of Tiulpin et al. 2018: torchvision's network, fine-tuned from ImageNet.

Dimensions: B knees.
"""

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn
from torchvision.models import ResNet34_Weights, resnet34

from deepknee.model import GRADES, GradingNet, pool, resized
from kneel.engine.config import ConfigError
from kneel.engine.foreign import ConversionError, check_state, load_plain, state_dict_in

_log = logging.getLogger(__name__)
_COUNTER = "num_batches_tracked"  # of batch norms; files older than torch 1.0 do not have it, and nothing here uses it


class ResNet34(GradingNet):
    """Grade a knee from one picture of the whole joint.

    Parameters
    ----------
    dropout
        Share of the 512 pooled features that is dropped in training.
    input_px
        Width and height to which pictures are resized, 224 in 2018.

    Notes
    -----
    The grey picture is shown three times, because ImageNet's weights expect three colours.
    """

    def __init__(self, *, dropout: float = 0.5, input_px: int = 224) -> None:
        super().__init__()
        self.input_px = input_px
        parts = list(resnet34(weights=None).named_children())
        self.body = nn.Sequential(OrderedDict(parts[:-2]))  # without average pooling and the layer of 1000 classes
        self.final = nn.Sequential(nn.Dropout(dropout), nn.Linear(512, GRADES))

    def features(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return the last feature maps.

        Parameters
        ----------
        pictures : one Tensor, shape (B, 1, H, W)
            Standardised.

        Returns
        -------
        tuple of one Tensor, shape (B, 512, h, w)
            7 x 7 maps of 224 x 224 pixels.
        """
        picture = resized(*pictures, size=(self.input_px, self.input_px))
        return (self.body(picture.expand(-1, 3, -1, -1)),)

    def judge(self, *maps: Tensor) -> Tensor:
        """Return the logits (B, 5) of feature maps."""
        return self.final(pool(maps[0]))


def cached_weights() -> Path:
    """Return where torch keeps torchvision's ImageNet weights once something has downloaded them."""
    name = PurePosixPath(ResNet34_Weights.IMAGENET1K_V1.url).name
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def start_from_imagenet(net: GradingNet, weights: str | None) -> str:
    """Load torchvision's weights into the body of a network, all but the layer of 1000 classes.

    Parameters
    ----------
    net : ResNet34
        Changed in place.
    weights : str or None
        File; None takes that of `cached_weights`, if it is there. Nothing is downloaded.

    Returns
    -------
    str
        ``random``, or the file's name and sha256.

    Raises
    ------
    ConfigError
        The file cannot be used.
    """
    assert isinstance(net, ResNet34)
    path = cached_weights() if weights is None else Path(weights)
    if weights is None and not path.is_file():
        _log.info("resnet34 starts from random weights: there are no ImageNet weights at %s, and none are named", path)
        return "random"
    try:
        state = state_dict_in(load_plain(path, "the state dict of torchvision's resnet34"), str(path))
        state = {name: value for name, value in state.items() if not name.startswith("fc.") and _COUNTER not in name}
        needed = {name: value for name, value in net.body.state_dict().items() if _COUNTER not in name}
        check_state(state, needed, path, "is it torchvision's resnet34?")
    except ConversionError as error:
        raise ConfigError(f"model.weights: {error}") from error
    net.body.load_state_dict(state, strict=False)
    _log.info("resnet34 starts from the weights of %s", path)
    return f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
