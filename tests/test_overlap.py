"""Films read at the same time give what they give one after another."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepknee.batch import Overlap, read_films
from deepknee.films import find_films
from deepknee.folder import OutputFolder
from deepknee.pipeline import load_reader
from deepknee.weights import find_weights
from kneel.phantom.render import FilmSpec, render_film
from kneel.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 60


@pytest.fixture(scope="module")
def weights():
    """Those that ship."""
    return find_weights(ROOT / "pretrained")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Pictures of one and of two knees, of two sizes, and one that is none."""
    folder = tmp_path_factory.mktemp("films")
    for number, sides in enumerate([("R", "L"), ("R",), ("R", "L"), ("L",), ("R", "L")]):
        spec = FilmSpec(300, 500 - 100 * (len(sides) == 1), 0.8, tuple((side, 2) for side in sides))
        drawn = render_film(spec, np.random.default_rng(number))
        cv2.imwrite(str(folder / f"{number}.png"), (drawn.pixels // 256).astype(np.uint8))
    (folder / "5.png").write_bytes(b"no picture")
    return folder


def outputs(films, weights, out, overlap):
    found, others = find_films([str(films)], out)
    folder = OutputFolder.by(weights, out, (0.8, 0.8))
    summary = read_films(found, others, folder, lambda: load_reader(weights, "cpu"), overlap=overlap)
    assert (summary.films, summary.failed, summary.knees) == (6, 1, 8)
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_overlapped_films_leave_the_same_files(films, weights, tmp_path):
    """Byte for byte, pictures and tables too, when nothing is batched across films."""
    alone = outputs(films, weights, tmp_path / "alone", Overlap())
    together = outputs(films, weights, tmp_path / "together", Overlap(films=4, pictures=1))
    assert any(name.endswith("_attention.png") for name in alone)
    assert sorted(alone) == sorted(together)
    different = [name for name in alone if alone[name] != together[name] and not name.startswith("records/")]
    assert not different


def numbers(reading):
    return [
        (knee.side, knee.landmarks, knee.spread_px, knee.probabilities, knee.attention, knee.grade_set)
        for knee in reading.knees
    ]


def test_batches_across_films_answer_as_film_by_film(weights, films, monkeypatch):
    """Every film in a thread of its own, and the networks are held back until all ask: so they are batched."""
    reader = load_reader(weights, "cpu")
    paths = sorted(films.glob("[0-4].png"))
    alone = [numbers(reader.read(path, spacing_mm=0.8)) for path in paths]
    sizes, batch = [], Stage.batch
    monkeypatch.setattr(Stage, "batch", lambda self, pictures: sizes.append(len(pictures)) or batch(self, pictures))
    shared = reader.shared(64)
    together = [None] * len(paths)

    def read(number):
        together[number] = numbers(shared.read(paths[number], spacing_mm=0.8))

    turn = shared.localizer.lc._gather._turn
    with turn:
        threads = [threading.Thread(target=read, args=(number,)) for number in range(len(paths))]
        for thread in threads:
            thread.start()
        waiting = shared.localizer.lc._gather._waiting
        for _ in range(100 * LIMIT_S):
            if len(waiting) == len(paths):
                break
            threading.Event().wait(0.01)
        assert len(waiting) == len(paths)
    for thread in threads:
        thread.join(LIMIT_S)
    assert max(sizes) >= 4  # the halves of several films
    for before, after in zip(alone, together, strict=True):
        assert [knee[0] for knee in after] == [knee[0] for knee in before]
        for one, other in zip(before, after, strict=True):
            for value, expected, limit in zip(other[1:5], one[1:5], (1e-3, 1e-3, 1e-5, 1e-3), strict=True):
                np.testing.assert_allclose(value, expected, rtol=0, atol=limit)
            assert one[5] == other[5]


def test_a_shared_grader_answers_for_no_knee(weights):
    shared = load_reader(weights, "cpu").shared(4)
    size = shared.grader.geometry.roi_px
    none = shared.grader.predict(np.zeros((0, size, size), np.uint8))
    assert (none.probabilities.shape, none.attention.shape) == ((0, 5), (0, size, size))
    some = np.random.default_rng(0).integers(0, 256, (3, size, size), np.uint8)
    one, other = (reader.grader.predict(some) for reader in (shared, load_reader(weights, "cpu")))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(one.members, other.members)
    np.testing.assert_array_equal(one.attention, other.attention)


def test_what_suits_a_device():
    assert Overlap.on("cuda").films > 1 < Overlap.on("cuda").pictures
    assert Overlap.on("cpu").pictures == 1  # the same bits as film by film
