from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from deepknee.augment import Augmentation, TrainingPictures
from deepknee.intensity import Intensity, adjust_contrast
from deepknee.patches import PatchGeometry
from deepknee.views import Compartments, plain_pictures

GEOMETRY = PatchGeometry(roi_mm=60.0, roi_px=60, crop=50, patch=24, top=12)
VIEW = Compartments(GEOMETRY)
NOTHING = Augmentation(brightness=(1.0, 1.0), contrast=(1.0, 1.0), rotation_deg=0.0, gamma=(1.0, 1.0), jitter_px=0)


@pytest.fixture
def roi() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(40, 200, (1, 60, 60), np.uint8))


def change(**settings: object) -> Augmentation:
    return Augmentation(**{**NOTHING.model_dump(), **settings})  # type: ignore[arg-type]


def test_nothing_changed_is_the_plain_pictures(roi: torch.Tensor) -> None:
    for found, expected in zip(TrainingPictures(VIEW, NOTHING)(roi), plain_pictures(VIEW, roi), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_gamma_is_a_power(roi: torch.Tensor) -> None:
    lateral, _ = TrainingPictures(VIEW, change(gamma=(1.5, 1.5)))(roi)
    torch.testing.assert_close(lateral, plain_pictures(VIEW, roi)[0] ** 1.5)


def test_brightness_is_a_factor_up_to_white(roi: torch.Tensor) -> None:
    lateral, _ = TrainingPictures(VIEW, change(brightness=(1.4, 1.4)))(roi)
    torch.testing.assert_close(lateral, (1.4 * plain_pictures(VIEW, roi)[0]).clamp(max=1))


def test_jitter_reaches_every_shift_and_no_further() -> None:
    column = torch.arange(60, dtype=torch.uint8).expand(1, 60, 60)
    shifts = []
    for roi in (column, column.transpose(1, 2)):  # grey levels say where a pixel lay
        draw = TrainingPictures(VIEW, change(jitter_px=2))
        first = plain_pictures(VIEW, roi)[0][0, 0, 0]
        torch.manual_seed(0)
        shifts.append([round(255 * float(draw(roi)[0][0, 0, 0] - first)) for _ in range(600)])
    assert set(zip(*shifts, strict=True)) == {(right, down) for right in range(-2, 3) for down in range(-2, 3)}


def test_rotation_turns_about_the_middle_and_keeps_sides(roi: torch.Tensor) -> None:
    lateral_bright = torch.zeros(1, 60, 60, dtype=torch.uint8)
    lateral_bright[..., :30] = 200
    draw = TrainingPictures(VIEW, change(rotation_deg=15.0))
    torch.manual_seed(0)
    for _ in range(5):
        lateral, medial = draw(lateral_bright)
        assert lateral.mean() > 4 * medial.mean()


def test_draws_follow_torchs_seed(roi: torch.Tensor) -> None:
    draw = TrainingPictures(VIEW, Augmentation(jitter_px=5))
    pairs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        pairs.append(torch.cat(draw(roi)))
    torch.testing.assert_close(pairs[0], pairs[1], rtol=0, atol=0)
    assert not torch.equal(pairs[0], pairs[2])


def test_patches_stay_in_range_and_the_roi_is_not_changed(roi: torch.Tensor) -> None:
    before = roi.clone()
    draw = TrainingPictures(VIEW, Augmentation(jitter_px=5))
    torch.manual_seed(0)
    patches = torch.stack([torch.cat(draw(roi)) for _ in range(20)])
    assert patches.min() >= 0
    assert patches.max() <= 1
    assert torch.equal(roi, before)


def test_jitter_beyond_the_rim_is_refused() -> None:
    with pytest.raises(ValueError, match="jitter_px = 6: must be at most 5"):
        TrainingPictures(VIEW, change(jitter_px=6))


def test_a_roi_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 1, 60, 59\): must end in 60 x 60"):
        TrainingPictures(VIEW, NOTHING)(torch.zeros(1, 60, 59, dtype=torch.uint8))


@pytest.mark.parametrize("bounds", [(1.2, 0.8), (0.0, 1.0)])
def test_ranges_must_rise_above_zero(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="two rising numbers"):
        Augmentation(gamma=bounds)


def test_contrast_of_the_roi_undoes_exposure() -> None:
    """A crop at a quarter of the contrast and another brightness becomes the same picture, but for rounding."""
    roi = np.random.default_rng(1).integers(0, 241, (60, 60)).astype(np.uint8)
    faint = (roi // 4 + 30).astype(np.uint8)
    geometry = PatchGeometry(roi_mm=60.0, roi_px=60, crop=60, patch=30, top=15)
    assert adjust_contrast(roi, "film", geometry) is roi
    for contrast in ("roi", "patches"):
        found, expected = (adjust_contrast(each, contrast, geometry).astype(int) for each in (faint, roi))
        assert abs(found - expected).max() <= 6


def test_contrast_of_the_patches_does_not_see_what_lies_around() -> None:
    geometry = PatchGeometry(roi_mm=60.0, roi_px=60, crop=60, patch=30, top=15)
    roi = np.random.default_rng(1).integers(40, 200, (60, 60)).astype(np.uint8)
    cut = roi.copy()
    cut[:15] = cut[45:] = 0  # rows above and below the patches
    found, expected = (adjust_contrast(each, "patches", geometry) for each in (cut, roi))
    np.testing.assert_array_equal(found[15:45], expected[15:45])
    low, high = np.percentile(roi[15:45], [5, 99])
    np.testing.assert_allclose(expected, 255 * np.clip((roi - low) / (high - low), 0, 1), atol=0.51)


def test_standardize() -> None:
    values = Intensity(mean=0.5, std=0.25).standardize(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(values, torch.tensor([-2.0, 0.0, 2.0]))


STILL: dict[str, Any] = {
    "brightness": (1.0, 1.0),
    "contrast": (1.0, 1.0),
    "rotation_deg": 0.0,
    "gamma": (1.0, 1.0),
    "jitter_px": 0,
}


def drawn(roi: np.ndarray, count: int, **changes: Any) -> list[np.ndarray]:
    """The lateral patch of a ROI (60, 60), so many times, with nothing but the given changes."""
    geometry = PatchGeometry(roi_mm=60.0, roi_px=60, crop=60, patch=30, top=15)
    pictures = TrainingPictures(Compartments(geometry), Augmentation(**{**STILL, **changes}))
    torch.manual_seed(0)
    return [pictures(torch.from_numpy(roi)[None])[0][0].numpy() for _ in range(count)]


@pytest.mark.parametrize("change", [{"blur_px": 1.5}, {"jpeg": (30, 60)}])
def test_every_other_picture_is_blurred_or_compressed(change: dict[str, Any]) -> None:
    roi = np.random.default_rng(0).integers(0, 256, (60, 60)).astype(np.uint8)
    plain = roi[15:45, :30] / np.float32(255)
    same = [np.allclose(patch, plain, atol=1e-6) for patch in drawn(roi, 60, **change)]
    assert 15 < sum(same) < 45
    changed = [patch for patch, kept in zip(drawn(roi, 60, **change), same, strict=True) if not kept]
    if "blur_px" in change:
        assert min(patch.std() for patch in changed) < 0.4 * plain.std()  # takes most of the contrast of noise
    else:
        assert all(0.01 < abs(patch - plain).mean() < 0.2 for patch in changed)


def test_scale_is_about_the_middle() -> None:
    """A disc of radius 10 in the middle covers 1.44 times the area at a scale of 1.2, and 0.64 times at 0.8."""
    y, x = np.mgrid[:60, :60] - 29.5
    roi = np.where(x**2 + y**2 < 100, 255, 0).astype(np.uint8)
    area = drawn(roi, 1)[0].sum()
    for factor in (1.2, 0.8):
        assert drawn(roi, 1, scale=(factor, factor))[0].sum() / area == pytest.approx(factor**2, rel=0.05)


def test_jpeg_qualities_are_checked() -> None:
    with pytest.raises(ValidationError, match="two rising qualities"):
        Augmentation(jpeg=(90, 30))
