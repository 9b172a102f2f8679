"""Graders that start from the weights of another training."""

from collections.abc import Mapping
from pathlib import Path

from deepknee.model import GradingNet
from kneel.engine.config import ConfigError
from kneel.engine.transfer import weights_digest, weights_of_split


def transfer_weights(net: GradingNet, path: Path, split: Mapping[str, str]) -> tuple[str, str]:
    """Give a network the weights of another training.

    Parameters
    ----------
    net : GradingNet
        Changed in place.
    path : Path
        Snapshot of a grading network of the same shape.
    split : mapping
        Digests of the subjects of this training; the other one must have had the same.

    Returns
    -------
    start : str
        Name of the training and SHA-256 of its weights, for the snapshot.
    marks : str
        Whom it was trained on, its teachers' subjects included; empty in snapshots from before that was kept.

    Raises
    ------
    LeakageError
        The other training was split in another way: it may have seen knees that this one is judged by.
    ConfigError
        The weights do not fit.
    """
    weights, meta = weights_of_split(path, split)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{path}: does not fit; model must be as in that experiment ({error})") from error
    return f"{meta['name']}, sha256 of the weights {weights_digest(weights)}", meta.get("trained_on", "")
