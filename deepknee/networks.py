"""The kinds of networks that grade, behind one face: what an experiment's ``model:`` may say.

Each kind knows its network, its view of a ROI, how a training of it begins and what it minimises. All else (reading,
training, ensembles, attention) is written once for all kinds.

Dimensions: B knees.
"""

from abc import abstractmethod
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor
from torch.nn import functional

from deepknee.model import GRADES, MIN_PATCH, GradingNet, KneeNet
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments, View, Window
from kneel.engine.config import Settings

KINDS = ("siamese", "resnet18", "resnet34", "antony")
Probability = Annotated[float, Field(ge=0, lt=1)]


class NetworkSettings(Settings):
    """What every kind can do; a kind overrides what is its own."""

    kind: str

    @abstractmethod
    def build(self) -> GradingNet:
        """Make the network, its weights random."""

    @abstractmethod
    def view(self, geometry: PatchGeometry) -> View:
        """Return what the network sees of a ROI.

        Parameters
        ----------
        geometry : PatchGeometry
            Of the ROIs.

        Raises
        ------
        ValueError
            The pictures would be too small.
        """

    def start(self, net: GradingNet) -> str | None:
        """Give a new network the weights that its training starts from, if they are other than random.

        Parameters
        ----------
        net : GradingNet
            What `build` returned; changed in place.

        Returns
        -------
        str or None
            Where the weights come from, for the snapshot; None for a kind that always starts from random ones.

        Raises
        ------
        ConfigError
            Weights that were asked for cannot be used.
        """

    def loss(self, outputs: Tensor, grades: Tensor, labels: Tensor) -> Tensor:
        """Return what is minimised: here the cross-entropy with the labels.

        Parameters
        ----------
        outputs : Tensor, shape (B, 5 or more)
            What the network's `forward` returns, the logits first.
        grades : Tensor, shape (B,), int64
            True grades.
        labels : Tensor, shape (B, 5)
            The same as probabilities, soft or not; see `deepknee.labels`.

        Returns
        -------
        Tensor, scalar
            Mean over the batch.
        """
        return functional.cross_entropy(outputs[:, :GRADES], labels)


class SiameseSettings(NetworkSettings):
    """Arguments of `deepknee.model.KneeNet`, which reads the two compartments.

    Attributes
    ----------
    kind
        Chooses this network; files that name no kind mean this one.
    width
        Channels of the first block.
    dropout
        Share of pooled features dropped in training.
    """

    kind: Literal["siamese"] = "siamese"
    width: int = Field(64, ge=1)
    dropout: Probability = 0.2

    def build(self) -> KneeNet:
        """Make the network."""
        return KneeNet(width=self.width, dropout=self.dropout)

    def view(self, geometry: PatchGeometry) -> Compartments:
        """Return the two patches."""
        if geometry.patch < MIN_PATCH:
            raise ValueError(f"geometry.patch = {geometry.patch}: the network needs at least {MIN_PATCH} pixels")
        return Compartments(geometry)


class JointSettings(NetworkSettings):
    """Arguments of `deepknee.resnet18.ResNet18`, which reads a band of the whole joint.

    Attributes
    ----------
    kind
        Chooses this network.
    width
        Channels of the first stage; an even number.
    dropout
        Share of pooled features dropped in training.
    input_px
        Width to which the band is resized.
    aspect
        Rows of the band for each of its columns; it is as wide as the crop, and the joint lies in its middle.
    """

    kind: Literal["resnet18"]
    width: int = Field(24, ge=2, multiple_of=2)
    dropout: Probability = 0.2
    input_px: int = Field(144, ge=32)
    aspect: float = Field(0.6, gt=0, le=1)

    def build(self) -> GradingNet:
        """Make the network."""
        from deepknee.resnet18 import ResNet18

        return ResNet18(width=self.width, dropout=self.dropout, input_px=self.input_px)

    def view(self, geometry: PatchGeometry) -> Window:
        """Return the band."""
        return Window.around_joint(geometry, self.aspect)


class ResNetSettings(NetworkSettings):
    """Arguments of `deepknee.resnet.ResNet34`, which reads the whole crop.

    Attributes
    ----------
    kind
        Chooses this network.
    dropout
        Share of pooled features dropped in training.
    input_px
        Width and height to which the crop is resized.
    weights
        File of torchvision's ``resnet34`` weights to start from (``.pth``; relative paths start in the current folder).
        None takes the ImageNet weights in torch's cache, if they are there, else random ones; nothing is downloaded.
    """

    kind: Literal["resnet34"]
    dropout: Probability = 0.5
    input_px: int = Field(224, ge=32)
    weights: str | None = None

    def build(self) -> GradingNet:
        """Make the network."""
        from deepknee.resnet import ResNet34  # torchvision is slow to load, and no other kind needs it to read

        return ResNet34(dropout=self.dropout, input_px=self.input_px)

    def view(self, geometry: PatchGeometry) -> Window:
        """Return the whole crop."""
        return Window.crop(geometry)

    def start(self, net: GradingNet) -> str | None:
        """Take ImageNet weights where there are some."""
        from deepknee.resnet import start_from_imagenet

        return start_from_imagenet(net, self.weights)


class AntonySettings(NetworkSettings):
    """Arguments of `deepknee.antony.AntonyNet`, which reads a band around the joint.

    Attributes
    ----------
    kind
        Chooses this network.
    dropout
        Share of activations dropped in training.
    classification
        Weight of the cross-entropy in the loss; the squared error of the regressed grade has the rest.
    """

    kind: Literal["antony"]
    dropout: Probability = 0.5
    classification: float = Field(0.5, gt=0, le=1)

    def build(self) -> GradingNet:
        """Make the network."""
        from deepknee.antony import AntonyNet

        return AntonyNet(dropout=self.dropout)

    def view(self, geometry: PatchGeometry) -> Window:
        """Return the band: two thirds as high as wide, as 200 x 300 is."""
        return Window.around_joint(geometry, 2 / 3)

    def loss(self, outputs: Tensor, grades: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum of both heads' losses."""
        from deepknee.antony import joint_loss

        return joint_loss(outputs, grades, self.classification, labels)


def _kind(settings: Any) -> str | None:
    """Name the kind of settings, whether read from a file or made in Python; without a name it is the Siamese one."""
    return settings.get("kind", KINDS[0]) if isinstance(settings, dict) else getattr(settings, "kind", None)


ModelSettings = Annotated[
    Annotated[SiameseSettings, Tag("siamese")]
    | Annotated[JointSettings, Tag("resnet18")]
    | Annotated[ResNetSettings, Tag("resnet34")]
    | Annotated[AntonySettings, Tag("antony")],
    Discriminator(
        _kind, custom_error_type="model_kind", custom_error_message=f"kind must be one of {', '.join(KINDS)}"
    ),
]
"""Settings of any kind; what their keys may be depends on ``kind``."""


def build_net(settings: NetworkSettings) -> GradingNet:
    """Build a network, laid out for speed: channels last is 1.3 to 1.6 times as fast on a CPU."""
    return settings.build().to(memory_format=torch.channels_last)
