"""The networks that ship: they load, they are small, and they find knees that they were not trained on."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from deepknee.weights import find_weights
from kneel.engine.folds import marked_subjects
from kneel.engine.snapshot import load_metadata
from kneel.imaging.crops import read_crops
from kneel.imaging.geometry import RoiFrame, mirror_points
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.localize import KneeLocalizer
from kneel.metrics import radial_errors
from kneel.phantom.render import FilmSpec, render_film

ROOT = Path(__file__).resolve().parents[1]
PRETRAINED = ROOT / "pretrained"
SHARED = ROOT.parent / "shared" / "data"
SPACING_MM = 0.45  # of the public crops


@pytest.fixture(scope="module")
def localizer():
    weights = find_weights(PRETRAINED)
    return KneeLocalizer.from_snapshots(weights.paths("lc"), weights.paths("hc"))


@pytest.fixture(scope="module")
def crops():
    """Six phantom knees as the public set has them: 224 pixels, 8 bits, left knees as on the film."""
    made = []
    for number in range(6):
        side = "RL"[number % 2]
        film = render_film(FilmSpec(800, 600, 0.3, ((side, number % 5),)), np.random.default_rng(900 + number))
        (knee,) = film.knees
        frame = RoiFrame.around(knee.center, 224 * SPACING_MM, (0.3, 0.3), side="R", roi_spacing_mm=SPACING_MM)
        grey = (normalize_percentiles(film.pixels) * 255).astype(np.uint8)
        made.append((side, knee.kl, frame.crop(grey), frame.to_roi(knee.landmarks)))
    return made


def errors(localizer, picture, side, points):
    (knee,) = localizer.locate(Radiograph(picture, laterality=side))
    return radial_errors(knee.landmarks, points, SPACING_MM)


def test_every_file_is_small_and_has_a_card():
    files = list(PRETRAINED.rglob("*.safetensors"))
    assert len(files) >= 3
    assert all(file.stat().st_size < 20e6 for file in files)
    for card in (PRETRAINED / "kneel/README.md", PRETRAINED / "deepknee/README.md"):
        text = card.read_text(encoding="utf-8")
        assert all(words in text for words in ("Research use only", "CC BY 4.0", "10.17632/56rmx5bjcr"))


def test_every_network_notes_the_subjects_that_its_digest_is_of():
    """Phantoms of the card's seeds are among those that the landmark networks know."""
    ours = {
        part: [str(9_000_000 + 10_000 * seed + n) for n in range(40)] for part, seed in (("train", 11), ("val", 12))
    }
    for path in PRETRAINED.rglob("*.safetensors"):
        meta = load_metadata(path)[0]
        counts = {"lc": (716, 98), "hc": (716, 98), "kl": (2889, 413)}[meta["task"]]
        assert tuple(len(meta[marks]) // 12 for marks in ("trained_on", "chosen_on")) == counts
        if meta["task"] != "kl":
            assert marked_subjects(ours["train"], meta["trained_on"]) == set(ours["train"])
            assert marked_subjects(ours["val"], meta["chosen_on"]) == set(ours["val"])


@pytest.mark.slow
@pytest.mark.parametrize("look", ["as it is", "dark bone", "half the pixels", "a film around it"])
def test_phantom_crops_without_spacing(localizer, crops, look):
    for side, _, picture, points in crops[:3]:
        if look == "dark bone":
            picture = 255 - picture
        elif look == "half the pixels":
            picture = cv2.resize(cv2.resize(picture, (112, 112), interpolation=cv2.INTER_AREA), (224, 224))
        elif look == "a film around it":
            picture = cv2.copyMakeBorder(picture, 300, 200, 40, 60, cv2.BORDER_CONSTANT)
            points = points + (40, 300)
        found = errors(localizer, picture, side, points)
        assert found.mean() < 3
        assert found.max() < 10


@pytest.mark.slow
def test_the_evaluation_of_crops_knows_sides_and_distances_and_lists_what_it_cannot_read(crops, tmp_path):
    """Table and pictures of phantoms; the errors of the summary are those of the predictions file."""
    names = [f"{axis}{number}" for number in range(16) for axis in "xy"]
    with (tmp_path / "table.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "subject_id", "side", "kl", "split", "mm_per_px", "inverted", *names])
        for number, (side, kl, picture, points) in enumerate(crops[:2]):
            cv2.imwrite(str(tmp_path / f"{number}{side}.png"), picture)
            table.writerow([f"{number}{side}.png", number, side, kl, "val", SPACING_MM, 0, *points.ravel()])
        for name in ("ramp.png", "broken.png", "gone.png"):
            table.writerow([name, name, "R", 0, "val", SPACING_MM, 0, *crops[0][3].ravel()])
    cv2.imwrite(str(tmp_path / "ramp.png"), np.tile(np.arange(224, dtype=np.uint8), (224, 1)))
    (tmp_path / "broken.png").write_bytes((tmp_path / "0R.png").read_bytes()[:300])
    command = [sys.executable, ROOT / "scripts/evaluate_crops.py", "--table", tmp_path / "table.csv"]
    command += ["--images", tmp_path, "--weights", PRETRAINED, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # three crops have no prediction: listed, counted, and the rest goes on
    assert (
        "5 crops: on 2 one knee, on 0 more, on 1 none; side right on 2 of 2\n2 crops could not be read" in done.stdout
    )
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "None of these subjects was in the training of a network.\n" in summary
    assert "no prediction: ramp.png: no knee found" in done.stderr
    assert "no prediction: broken.png: cannot be read" in done.stderr
    assert "no prediction: gone.png: cannot be read" in done.stderr
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    points, truth = (found[[f"{mark}{name}" for name in names]].to_numpy().reshape(2, 16, 2) for mark in ("", "t"))
    assert (truth[:, 0, 0] < truth[:, 8, 0]).all()  # left knees are mirrored in the file
    np.testing.assert_allclose(truth[1], mirror_points(crops[1][3], 224))
    knees = pd.read_csv(tmp_path / "out" / "knees.csv")
    np.testing.assert_allclose(radial_errors(points, truth, SPACING_MM).mean(1), knees.error_mm[:2], atol=1e-9)
    assert knees.error_mm[2:].isna().all()


def test_an_evaluation_of_crops_that_cannot_be_done_leaves_no_folder(tmp_path):
    names = [f"{axis}{number}" for number in range(16) for axis in "xy"]
    head = ["file", "subject_id", "side", "kl", "split", "mm_per_px", "inverted", *names]
    row = ["1R.png", "1", "R", "0", "val", "0.2", "0", *["1"] * 32]
    (tmp_path / "table.csv").write_text(f"{','.join(head)}\n{','.join(row)}\n")
    command = [sys.executable, ROOT / "scripts/evaluate_crops.py", "--table", tmp_path / "table.csv"]
    command += ["--images", tmp_path, "--weights", PRETRAINED, "--out", tmp_path / "out", "--graded", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"evaluate_crops: {tmp_path}: no PNG pictures in folders 0 to 4\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the public crops are not here")
def test_real_crops_of_the_validation_set(localizer):
    """Eight of the 58 on whose likes the epoch was chosen: the figures of the card are not far off."""
    crops = [c for c in read_crops(SHARED / "chen2018_landmarks.csv", SHARED / "chen2018") if c.split == "val"][::8]
    means = []
    for crop in crops:
        (knee,) = localizer.locate(Radiograph(crop.read(), laterality=crop.side))
        means.append(radial_errors(knee.landmarks, crop.points, crop.mm_per_px).mean())
    assert np.mean(means) < 1.5
