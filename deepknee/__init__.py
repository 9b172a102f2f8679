"""Kellgren-Lawrence grading of knee radiographs with attention maps (DeepKnee).

>>> import deepknee
>>> reader = deepknee.load_reader()  # doctest: +SKIP
>>> [(knee.side, knee.kl) for knee in reader.read("film.dcm").knees]  # doctest: +SKIP
[('R', 2), ('L', 3)]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepknee.knee_reading import KneeReading, Reading
    from deepknee.pipeline import Reader, load_reader, read_knees

__all__ = ["KneeReading", "Reader", "Reading", "load_reader", "read_knees"]


def __getattr__(name: str) -> Any:
    # imported on first use: `deepknee --help` and `import deepknee.patches` need not load the whole walk
    if name in __all__:
        from deepknee import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'deepknee' has no attribute {name!r}")
