import numpy as np
import pytest
import torch
from pydantic import ValidationError

from deepknee.patches import PatchGeometry, joint_middle
from kneel.imaging.geometry import mirror_points

SMALL = PatchGeometry(roi_mm=12.0, roi_px=12, crop=10, patch=4, top=3)


def test_2018_windows_by_hand() -> None:
    """Rows 100..228, columns 0..128 and (mirrored) 172..300 of the middle 300 of 350 pixels."""
    roi = np.random.default_rng(0).integers(0, 256, (2, 350, 350), np.uint8)
    crop = roi[:, 25:325, 25:325]
    lateral, medial = PatchGeometry().split_compartments(roi)
    np.testing.assert_array_equal(lateral, crop[:, 100:228, :128])
    np.testing.assert_array_equal(medial, crop[:, 100:228, 172:][:, :, ::-1])


@pytest.mark.parametrize("geometry", [SMALL, PatchGeometry(), PatchGeometry(roi_px=9, crop=9, patch=4, top=0)])
def test_split_and_merge_are_inverses(geometry: PatchGeometry) -> None:
    rng = np.random.default_rng(1)
    patches = rng.random((2, 3, geometry.patch, geometry.patch))
    roi = geometry.merge_compartments(*patches)
    for found, expected in zip(geometry.split_compartments(roi), patches, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.count_nonzero(roi) == np.count_nonzero(patches)


def test_merge_of_split_keeps_the_windows() -> None:
    roi = np.arange(1.0, 145.0).reshape(12, 12)
    back = SMALL.merge_compartments(*SMALL.split_compartments(roi))
    inside = np.zeros((12, 12), bool)
    inside[4:8, 1:5] = inside[4:8, 7:11] = True
    np.testing.assert_array_equal(back, np.where(inside, roi, 0))


def test_tensors_and_arrays_agree() -> None:
    roi = np.random.default_rng(2).random((2, 12, 12))
    tensors = SMALL.split_compartments(torch.from_numpy(roi))
    for a, b in zip(SMALL.split_compartments(roi), tensors, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    patches = np.random.default_rng(3).random((2, 5, 4, 4))
    merged = SMALL.merge_compartments(*torch.from_numpy(patches))
    np.testing.assert_array_equal(SMALL.merge_compartments(*patches), merged.numpy())


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must end in 12 x 12"):
        SMALL.split_compartments(np.zeros((12, 11)))
    with pytest.raises(ValueError, match="must end in 4 x 4"):
        SMALL.merge_compartments(np.zeros((4, 4)), np.zeros((4, 5)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop": 301}, "even rim"),
        ({"crop": 352}, "at most roi_px"),
        ({"patch": 151}, "side by side"),
        ({"top": 173}, "at most crop"),
        ({"roi_mm": 0.0}, "greater than 0"),
        ({"patches": 2}, "not permitted"),
    ],
)
def test_impossible_geometry_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PatchGeometry(**settings)


@pytest.mark.parametrize("side", ["L", "R"])
def test_the_joint_lands_where_the_geometry_says(side: str) -> None:
    geometry = PatchGeometry(roi_mm=100.0, roi_px=200, crop=200, patch=100, top=0, joint_mm=(3.0, 5.0))
    frame = geometry.frame((700.0, 900.0), (0.2, 0.1), side)  # type: ignore[arg-type]
    assert frame.size == (200, 200)
    assert frame.mirrored == (side == "L")
    # the middle of 200 pixels is 99.5; 3 mm towards medial and 5 mm down are 6 and 10 pixels of 0.5 mm
    np.testing.assert_allclose(frame.to_roi([700.0, 900.0]), [105.5, 109.5])


def test_lateral_of_either_side_is_at_small_x() -> None:
    """On a film the right knee is at the left: lateral at small x; the left knee is the mirror image."""
    film = np.zeros((400, 400), np.uint8)
    film[200, 150], film[200, 250] = 255, 100  # 50 pixels to either side of the joint
    for side, lateral_value in (("R", 255), ("L", 100)):
        frame = PatchGeometry(roi_mm=150.0, roi_px=150, crop=150, patch=75, top=0).frame((200, 200), (1, 1), side)  # type: ignore[arg-type]
        roi = frame.crop(film).astype(int)
        assert roi[:, :75].sum() == pytest.approx(lateral_value, abs=2)


def knee_points(spacing_mm: tuple[float, float], scale: float = 1.0) -> np.ndarray:
    """A right knee in film pixels: KNEEL's order, tibial width 79 mm times `scale`, joint middle at (100, 120) mm."""
    x = [-39.5, -30, -15, -5, 0, 5, 15, 30, 39.5, -40, -25, -12, 0, 12, 25, 40]
    y = [6, 2.5, 2.5, 0, 1, 0, 2.5, 2.5, 6, -10, -2.5, -8, -12, -8, -2.5, -10]
    points = scale * np.stack([x, y], -1) + (100, 120)
    points[:, 1] -= scale * (4 * 2.5 - 2 * 2.5) / 6  # so that the mean of plateaus and condyles is at 120
    return points / (spacing_mm[1], spacing_mm[0])


def test_joint_middle_by_hand() -> None:
    np.testing.assert_allclose(joint_middle(knee_points((1.0, 1.0))), (100, 120))


@pytest.mark.parametrize("side", ["R", "L"])
def test_following_landmarks_is_blind_to_scale_and_place(side: str) -> None:
    """The same knee at half the size, on another film, with a wrong spacing: its points land on the same ROI pixels."""
    geometry = PatchGeometry(follow="landmarks", roi_mm=100.0, roi_px=200, crop=200, patch=100, top=50)
    width = 2000
    seen = []
    for spacing, told, scale in [((0.5, 0.5), (0.5, 0.5), 1.0), ((0.2, 0.1), (2.0, 1.0), 0.5)]:
        points = knee_points(spacing, scale)
        if side == "L":
            points = mirror_points(points, width)
        seen.append(geometry.frame_of(points, told, side).to_roi(points))  # type: ignore[arg-type]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(seen[0][8] - seen[0][0]), 79 / 0.5)
    assert seen[0][0, 0] < seen[0][8, 0]  # lateral at small x
    np.testing.assert_allclose(joint_middle(seen[0]), (99.5, 99.5))


def test_following_the_centre_is_the_2018_way() -> None:
    geometry = PatchGeometry(roi_mm=100.0, roi_px=200, crop=200, patch=100, top=50)
    points = knee_points((0.5, 0.5))
    assert geometry.frame_of(points, (0.5, 0.5), "R") == geometry.frame(points[4], (0.5, 0.5), "R")


def test_landmarks_in_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="tibial edges"):
        PatchGeometry(follow="landmarks").frame_of(np.ones((16, 2)), (1.0, 1.0), "R")
