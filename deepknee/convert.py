"""Weights that DeepKnee's authors trained, as snapshots of ours.

Their file of a network is a state dict of a Siamese network, every key with the ``module.`` of training on several
GPUs; beside it lies ``mean_std.npy``, mean and standard deviation of the training patches on the [0, 1] scale. Nothing
is unpickled but tensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from deepknee.intensity import Intensity
from deepknee.member import TASK, GraderSettings, Member
from deepknee.model import GRADES
from deepknee.networks import SiameseSettings, build_net
from deepknee.patches import PatchGeometry
from kneel.engine.foreign import ConversionError, check_state, load_array, load_plain, state_dict_in
from kneel.engine.provenance import code_version

_FIRST, _LAST = "branch.block1.0.0.weight", "final.1.weight"


def read_mean_std(path: Path) -> Intensity:
    """Read their normalisation.

    Parameters
    ----------
    path : Path
        ``.npy`` of two numbers, mean and standard deviation, on the [0, 1] scale.

    Raises
    ------
    ConversionError
        It is no such file.
    """
    values = load_array(path)
    if values.size != 2 or values.dtype.kind != "f":
        found = f"{values.dtype} of shape {values.shape}"
        raise ConversionError(f"{path}: holds {found}: must be two numbers, mean and standard deviation")
    mean, std = values.ravel().tolist()
    if not (0 < mean < 1 and 0 < std < 1):
        raise ConversionError(f"{path}: mean {mean:.4g}, std {std:.4g}: must be on the [0, 1] scale")
    return Intensity(mean=mean, std=std)


def read_network(path: Path, intensity: Intensity) -> Member:
    """Rebuild a network of the authors, of whatever width.

    Parameters
    ----------
    path : Path
        ``.pth`` file of theirs.
    intensity : Intensity
        From `read_mean_std`.

    Returns
    -------
    Member
        With the geometry of 2018, and to be used in mode ``2018``.

    Raises
    ------
    ConversionError
        The file cannot be read without running code, or a key is missing, unknown or of another shape.
    """
    state = state_dict_in(load_plain(path, "a state dict"), str(path))
    for key, axes in ((_FIRST, 4), (_LAST, 2)):
        if key not in state:
            raise ConversionError(f"{path}: no key {key!r}; is it a network of DeepKnee?")
        if state[key].ndim != axes:
            raise ConversionError(f"{path}: {key}: shape {tuple(state[key].shape)}, needed {axes} axes")
    if len(state[_LAST]) != GRADES:
        raise ConversionError(f"{path}: {_LAST}: {len(state[_LAST])} rows, needed {GRADES}, one a KL grade")
    model = SiameseSettings(width=len(state[_FIRST]))
    net = build_net(model)
    check_state(state, net.state_dict(), path, f"its first layer is that of a network of width {model.width}")
    net.load_state_dict(state)
    return Member(net.eval(), GraderSettings(model=model, geometry=PatchGeometry(), intensity=intensity, mode="2018"))


def describe(path: Path, member: Member, *, ensemble: str) -> dict[str, Any]:
    """Describe a converted network as training describes its own, as far as it can be known.

    Parameters
    ----------
    path : Path
        ``.pth``; its name without the ending is the name of the network.
    member : Member
        From `read_network`.
    ensemble : str
        Name of the ensemble that it is read in.

    Returns
    -------
    dict
        Metadata for `kneel.engine.snapshot.save_snapshot`. Without fold and split of the subjects: neither is in the
        authors' file.
    """
    return {
        "task": TASK,
        "name": path.stem,
        # what the networks of the ensemble have in common; their widths may differ
        "experiment": {
            "task": TASK,
            "ensemble": ensemble,
            "geometry": member.settings.geometry.model_dump(mode="json"),
        },
        **member.settings.model_dump(mode="json"),
        "converted_from": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "code": code_version(),
    }
