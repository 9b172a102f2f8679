"""Where annotated knees come from: the ``data:`` part of a landmark experiment."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kneel.engine.config import Settings
from kneel.imaging.cohort import ANNOTATIONS


class PhantomSource(Settings):
    """Whole films with annotations: a phantom cohort, or any folder of that layout (see `kneel.imaging.cohort`).

    Attributes
    ----------
    source : "phantom"
        Chooses this source.
    train : str
        Cohort folder below the data root.
    val : str or None
        Validation cohort; None holds out a fold of `train`.
    """

    source: Literal["phantom"]
    train: str = "train"
    val: str | None = "val"


class KneelSource(Settings):
    """KNEEL's annotation table with pictures: ROI ``{subject}_{kl}_{side}.png`` (HC), films ``{subject}.png`` (LC).

    Attributes
    ----------
    source : "kneel_csv"
        Chooses this source.
    annotations : str
        The CSV, below the data root.
    images : str
        Folder of the pictures, below the data root: 466 x 466 ROIs at 0.3 mm, left knees mirrored, or 1 mm films of
        both knees. 8 bit, bright bone, after `kneel.imaging.radiograph.normalize_percentiles` of the whole film.
    """

    source: Literal["kneel_csv"]
    annotations: str
    images: str

    @property
    def val(self) -> None:
        """Never a validation set of its own: a fold is held out."""
        return None


class CropSource(Settings):
    """Crops of single knees with a table of their points; see `kneel.imaging.crops`.

    Attributes
    ----------
    source : "crops"
        Chooses this source.
    table : str
        The CSV, below the data root.
    images : str
        Folder below the data root that its file names start from.
    train : str
        Value of the table's column ``split`` to train on.
    val : str or None
        Likewise to validate on; None holds out a fold of `train`.
    """

    source: Literal["crops"]
    table: str
    images: str
    train: str = "train"
    val: str | None = "val"


class Part(Settings):
    """One of several sources.

    Attributes
    ----------
    data : PhantomSource or CropSource
        The knees; with ``val: null`` they are trained on and not validated on.
    repeat : int
        How often an epoch shows each of its training knees.
    """

    data: Annotated[PhantomSource | CropSource, Field(discriminator="source")]
    repeat: int = Field(1, ge=1)


class SeveralSources(Settings):
    """Several sources together.

    Attributes
    ----------
    source : "several"
        Chooses this source.
    parts : tuple of Part
        At least one of them with a validation set; there are no folds.
    """

    source: Literal["several"]
    parts: tuple[Part, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _validates(self) -> Self:
        if self.val is None:
            raise ValueError("parts: none has a validation set (data.val); several sources are not split into folds")
        return self

    @property
    def val(self) -> str | None:
        """Names of the validation sets."""
        return ", ".join(part.data.val for part in self.parts if part.data.val is not None) or None


Leaf = PhantomSource | KneelSource | CropSource
Source = Annotated[Leaf | SeveralSources, Field(discriminator="source")]


def tables_of(source: Source) -> list[str]:
    """Name what a source's knees and points are told by.

    Parameters
    ----------
    source : Source
        What lies below a data root.

    Returns
    -------
    list of str
        Tables, below the data root.
    """
    if isinstance(source, SeveralSources):
        return [name for part in source.parts for name in tables_of(part.data)]
    if isinstance(source, KneelSource):
        return [source.annotations]
    if isinstance(source, CropSource):
        return [source.table]
    return [f"{folder}/{ANNOTATIONS}" for folder in (source.train, source.val) if folder is not None]
