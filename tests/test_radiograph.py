import tracemalloc

import numpy as np
import pytest

from kneel.imaging import Radiograph, RadiographError, normalize_percentiles
from kneel.imaging import radiograph as module


def by_sorting(pixels, low, high):
    """The definition: clip at numpy's percentiles, scale to [0, 1]."""
    a, b = np.percentile(pixels, [low, high])
    return (np.clip(pixels, a, b) - a) / (b - a)


def films():
    rng = np.random.default_rng(0)
    yield "16 bits", rng.integers(0, 65536, (61, 47), dtype=np.uint16)
    yield "8 bits", rng.integers(0, 256, (61, 47), dtype=np.uint8)
    yield "12 bits, skewed", rng.gamma(2, 300, (83, 90)).clip(0, 4095).astype(np.uint16)
    yield "two levels far apart", np.where(np.arange(5000).reshape(50, 100) < 2400, 7, 60000).astype(np.uint16)
    yield "one row", rng.integers(0, 4096, (1, 999), dtype=np.uint16)
    yield "two pixels", np.array([[3, 9]], np.uint8)
    yield "every other pixel of a larger one", rng.integers(0, 4096, (80, 80), dtype=np.uint16)[::2, ::-2]


@pytest.mark.parametrize(("name", "pixels"), list(films()))
@pytest.mark.parametrize(("low", "high"), [(5, 99), (0, 100), (0.5, 99.9), (33.3, 66.6)])
def test_same_as_sorting(name, pixels, low, high):
    result = normalize_percentiles(pixels, low, high)
    assert result.dtype == np.float32
    assert result.shape == pixels.shape
    np.testing.assert_allclose(result, by_sorting(pixels, low, high), atol=1e-6)


def test_large_images_are_counted_in_bands(monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 4096, (40, 30), dtype=np.uint16)
    whole = normalize_percentiles(pixels)
    monkeypatch.setattr(module, "_EXACT_COUNT", 70)
    assert np.array_equal(normalize_percentiles(pixels), whole)


def test_positive_affine_maps_cancel():
    pixels = np.random.default_rng(2).integers(0, 4096, (40, 30), dtype=np.uint16)
    np.testing.assert_allclose(normalize_percentiles(pixels * 3 + 500), normalize_percentiles(pixels), atol=1e-6)


def test_padding_is_not_counted_and_comes_out_as_zero():
    pixels = np.random.default_rng(3).integers(1000, 4096, (40, 50), dtype=np.uint16)
    padding = np.zeros(pixels.shape, bool)
    padding[:, 30:] = True
    pixels[padding] = 65535
    result = normalize_percentiles(pixels, padding=padding)
    np.testing.assert_allclose(result[:, :30], by_sorting(pixels[:, :30], 5, 99), atol=1e-6)
    assert not result[padding].any()


def test_equal_percentiles_are_a_step():
    pixels = np.zeros((10, 100), np.uint8)
    pixels[0, :5] = 200  # fewer than one in a hundred
    result = normalize_percentiles(pixels)
    assert np.array_equal(result, pixels > 0)


@pytest.mark.parametrize("level", [0, 17, 65535])
def test_constant_image_is_zero(level):
    assert not normalize_percentiles(np.full((4, 5), level, np.uint16)).any()


def test_all_padding_is_zero():
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5)
    assert not normalize_percentiles(pixels, padding=np.ones((4, 5), bool)).any()


def test_arguments_are_not_changed():
    pixels = np.random.default_rng(4).integers(0, 4096, (40, 30), dtype=np.uint16)
    padding = pixels > 4000
    before = pixels.copy(), padding.copy()
    normalize_percentiles(pixels, padding=padding)
    assert np.array_equal(pixels, before[0])
    assert np.array_equal(padding, before[1])


@pytest.mark.parametrize(
    ("pixels", "options", "error", "words"),
    [
        (np.zeros((2, 2)), {}, TypeError, "pixels are float64"),
        (np.zeros((2, 2), np.int16), {}, TypeError, "pixels are int16"),
        (np.zeros((2, 2, 3), np.uint8), {}, ValueError, r"shape \(2, 2, 3\)"),
        (np.zeros((0, 2), np.uint8), {}, ValueError, r"shape \(0, 2\)"),
        (np.zeros((2, 2), np.uint8), {"low": 50, "high": 50}, ValueError, "50 and 50"),
        (np.zeros((2, 2), np.uint8), {"low": -1}, ValueError, "-1 and 99"),
        (np.zeros((2, 2), np.uint8), {"high": float("nan")}, ValueError, "nan"),
        (np.zeros((2, 2), np.uint8), {"padding": np.zeros((2, 3), bool)}, ValueError, r"\(2, 3\)"),
        (np.zeros((2, 2), np.uint8), {"padding": np.zeros((2, 2), np.uint8)}, TypeError, "padding is uint8"),
    ],
)
def test_impossible_arguments_are_refused(pixels, options, error, words):
    with pytest.raises(error, match=words):
        normalize_percentiles(pixels, **options)


def test_memory_stays_within_the_result_and_a_little():
    pixels = np.random.default_rng(5).integers(0, 4096, (1200, 1000), dtype=np.uint16)
    tracemalloc.start()
    try:
        normalize_percentiles(pixels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * pixels.nbytes + 3e6  # float32, and tables of 65536 levels


def test_radiograph_is_frozen():
    film = Radiograph(np.zeros((2, 2), np.uint8))
    with pytest.raises(AttributeError):
        film.spacing_mm = (1.0, 1.0)


def test_error_names_its_file_once_known():
    error = RadiographError("Rows is 0")
    assert str(error) == "Rows is 0"
    error.source = "a.dcm"
    assert str(error) == "a.dcm: Rows is 0"
