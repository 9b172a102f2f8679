"""Collages: a real knee, cut out by others, pasted over the knee of a phantom film.

The public crops show the joint and nothing else. On a phantom's leg they become whole films on which a joint has to be
found, with real bone at it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray
from tqdm import tqdm

from kneel.imaging.crops import AnnotatedCrop
from kneel.imaging.geometry import Side, mirror_points
from kneel.imaging.preparing import run_tasks
from kneel.imaging.radiograph import normalize_percentiles
from kneel.imaging.schema import KneeAnnotation, write_annotations
from kneel.imaging.writing import write_whole
from kneel.phantom.cohort import claim_folders
from kneel.phantom.dicom_file import dicom_bytes
from kneel.phantom.render import Film, FilmSpec, render_film

SPACING_MM = 0.3  # crops hold no more detail than that
_SINGLE_MM = ((300.0, 240.0), (240.0, 180.0), (350.0, 200.0), (430.0, 180.0), (430.0, 350.0))
_PAIR_MM = ((350.0, 430.0), (300.0, 400.0), (240.0, 430.0))
_BITS = 12


def write_collages(
    directory: str | os.PathLike[str],
    crops: Sequence[AnnotatedCrop],
    seed: int,
    *,
    pairs: float = 0.35,
    jobs: int = 1,
    progress: bool = False,
) -> list[str]:
    """Write a cohort of collages, one film a subject: ``films/{subject_id}.dcm`` and ``annotations.csv``.

    Films keep the subject of their crop, so that a split of films and crops together can be checked for leakage. Of a
    subject with two knees one is drawn.

    Parameters
    ----------
    directory : path_like
        Folder to write to; made when missing.
    crops : sequence of AnnotatedCrop
        The knees.
    seed : int
        Same seed, same bytes, whatever `jobs`.
    pairs : float
        Share of films that show two knees, in [0, 1].
    jobs : int
        Processes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of str
        The subjects.

    Raises
    ------
    ValueError
        No crops, or `pairs` is no share.
    FileExistsError
        The folder already holds films of other subjects.
    RadiographError
        A crop cannot be read.
    """
    if not crops or not 0 <= pairs <= 1:
        raise ValueError(f"{len(crops)} crops, pairs = {pairs}: needs at least one crop and a share in [0, 1]")
    by_subject: dict[str, list[AnnotatedCrop]] = {}
    for crop in crops:
        by_subject.setdefault(crop.subject_id, []).append(crop)
    root, tasks = Path(directory), list(enumerate(by_subject.values()))
    claim_folders(root, set(by_subject))
    work = partial(_write_collage, root, seed, pairs)
    done = tqdm(run_tasks(work, tasks, jobs, ordered=True), "collages", len(tasks), unit="film", disable=not progress)
    write_annotations(root / "annotations.csv", [knee for knees in done for knee in knees])
    return list(by_subject)


def _write_collage(
    root: Path, seed: int, pairs: float, task: tuple[int, Sequence[AnnotatedCrop]]
) -> list[KneeAnnotation]:
    """Render one subject's film and write it; its randomness depends on the seed and its index alone."""
    index, knees = task
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(index,)))
    crop = knees[int(rng.integers(len(knees)))]
    film = render_collage(crop, rng, pair=bool(rng.random() < pairs))
    path = root / "films" / f"{crop.subject_id}.dcm"
    write_whole(path, dicom_bytes(film, crop.subject_id, str(seed), "detector"))
    spacing = SPACING_MM, SPACING_MM
    return [
        KneeAnnotation.from_film(crop.subject_id, knee.side, knee.kl, knee.landmarks, spacing) for knee in film.knees
    ]


def render_collage(crop: AnnotatedCrop, rng: Generator, *, pair: bool) -> Film:
    """Render a film that shows the knee of a crop.

    Parameters
    ----------
    crop : AnnotatedCrop
        The knee.
    rng : Generator
        Source of everything else.
    pair : bool
        Whether the film shows two knees: then the other one is the mirror image of the crop.

    Returns
    -------
    Film
        12 bits, MONOCHROME2; its knees' landmarks are those of the crop.
    """
    height, width = (_PAIR_MM if pair else _SINGLE_MM)[rng.integers(3 if pair else 5)]
    sides: tuple[Side, ...] = ("R", "L") if pair else (crop.side,)
    rows, columns = round(height / SPACING_MM), round(width / SPACING_MM)
    spec = FilmSpec(rows, columns, SPACING_MM, tuple((side, crop.kl) for side in sides), _BITS)
    film = render_film(spec, rng)
    grey = normalize_percentiles(film.pixels)
    picture, knees = crop.read().astype(np.float32) / 255, []
    for knee in film.knees:
        same = knee.side == crop.side
        points = crop.points if same else mirror_points(crop.points, picture.shape[1])
        look = picture if same else np.ascontiguousarray(picture[:, ::-1])
        grey, landmarks = paste_knee(grey, knee.landmarks, look, points, feather_px=rng.uniform(8, 24))
        knees.append(replace(knee, landmarks=landmarks))
    grey, origin = _reframe(grey, np.concatenate([knee.landmarks for knee in knees]), rng, strip=pair)
    pixels = np.rint(grey * ((1 << _BITS) - 1)).astype(np.uint16)
    moved = tuple(replace(knee, landmarks=knee.landmarks - origin) for knee in knees)
    return replace(film, pixels=pixels, knees=moved)


def paste_knee(
    film: NDArray,
    landmarks: NDArray[np.float64],
    crop: NDArray,
    crop_points: NDArray[np.float64],
    *,
    feather_px: float,
) -> tuple[NDArray, NDArray[np.float64]]:
    """Lay a crop over the knee of a film, landmarks on landmarks, and let its border fade into the film.

    Parameters
    ----------
    film : ndarray, shape (H, W), float32
        Grey values in [0, 1].
    landmarks : ndarray, shape (16, 2)
        Of the knee on the film, (x, y) in its pixels.
    crop : ndarray, shape (h, w), float32
        Grey values in [0, 1], bright bone, the same side as the knee on the film.
    crop_points : ndarray, shape (16, 2)
        Landmarks in pixels of the crop.
    feather_px : float
        Width of the fading border, pixels of the crop.

    Returns
    -------
    film : ndarray, shape (H, W), float32
        Its grey values are brought to those of the crop along the border first.
    landmarks : ndarray, shape (16, 2)
        Those of the crop, (x, y) in pixels of the film.
    """
    matrix = _similarity(crop_points, landmarks)
    size = film.shape[::-1]
    pasted = cv2.warpAffine(crop, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    x, y = (np.minimum(np.arange(n), n - 1 - np.arange(n)) for n in crop.shape[::-1])
    edge = np.minimum(x[None], y[:, None]).astype(np.float32)
    share = cv2.warpAffine(np.clip(edge / feather_px, 0, 1), matrix, size, flags=cv2.INTER_LINEAR)
    border = (share > 0) & (share < 1)
    gain, offset = _match(film[border], pasted[border]) if border.any() else (1.0, 0.0)
    matched = np.clip(gain * film + offset, 0, 1)
    points = crop_points @ matrix[:, :2].T + matrix[:, 2]
    return matched + share * (pasted - matched), points


def _similarity(points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift, rotation and scale (2, 3) that bring points closest to a target (Umeyama 1991, as complex numbers)."""
    z, w = points @ np.array([1, 1j]), target @ np.array([1, 1j])
    z_mean, w_mean = z.mean(), w.mean()
    factor = np.vdot(z - z_mean, w - w_mean) / np.vdot(z - z_mean, z - z_mean).real
    shift = w_mean - factor * z_mean
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def _match(values: NDArray, target: NDArray) -> tuple[float, float]:
    """Gain and offset that give values the quartiles of a target; a flat film only moves."""
    low, high = np.percentile(values, [25, 75])
    target_low, target_high = np.percentile(target, [25, 75])
    gain = float(np.clip((target_high - target_low) / (high - low), 0.3, 2.0)) if high - low > 0.02 else 1.0
    return gain, float((target_low + target_high) / 2 - gain * (low + high) / 2)


def _reframe(
    grey: NDArray, points: NDArray[np.float64], rng: Generator, *, strip: bool
) -> tuple[NDArray, NDArray[np.float64]]:
    """Cut a film closer around its knees, lay it on a larger black canvas, or leave it; sometimes with a bright edge.

    With `strip` half of those that are cut closer are strips along the joints, as pairs of knees are often stored.

    Returns
    -------
    grey : ndarray
        The new film.
    origin : ndarray, shape (2,)
        Its first pixel (x, y) on the old one.
    """
    choice, origin = rng.random(), np.zeros(2)
    if choice < 0.5:
        reach = rng.uniform(12, 150, 4) / SPACING_MM  # left, top, right, bottom of the landmarks
        if strip and choice < 0.25:
            reach[1::2] = rng.uniform(15, 55, 2) / SPACING_MM
        low = np.maximum(points.min(0) - reach[:2], 0).astype(int)
        high = np.minimum(points.max(0) + reach[2:], grey.shape[::-1]).astype(int)
        grey, origin = grey[low[1] : high[1], low[0] : high[0]], low.astype(float)
    elif choice < 0.75:
        left, top, right, bottom = (rng.uniform(0, 90, 4) / SPACING_MM).astype(int)
        value = float(rng.choice([0, 0, rng.uniform(0, 0.15)]))
        grey = cv2.copyMakeBorder(grey, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value)
        origin = np.array([-left, -top], float)
    if rng.random() < 0.15:
        grey = grey.copy()
        turned = np.rot90(grey, int(rng.integers(4)))  # a view: the bright edge is one of the four
        turned[: int(rng.uniform(2, 12) / SPACING_MM)] = rng.uniform(0.7, 1)
    return grey, origin
