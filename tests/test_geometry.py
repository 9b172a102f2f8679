import cv2
import numpy as np
import pytest

from kneel.imaging import geometry
from kneel.imaging.geometry import RoiFrame


def blob(shape, center, sigma=2.0):
    """Picture of a Gaussian spot whose centre of mass is known to be `center` (x, y)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma**2)).astype(np.float32)


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * image).sum(), (y * image).sum()]) / image.sum()


def test_resize_points_follow_the_pixels_of_cv2_area_averaging():
    image = blob((60, 80), (33, 21))
    small = cv2.resize(image, (40, 20), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(centroid(small), geometry.resize_points((33, 21), (1 / 2, 1 / 3)), atol=1e-3)


def test_mirror_points_follow_the_pixels_of_a_flip():
    image = np.zeros((4, 7))
    image[2, 1] = 1
    np.testing.assert_allclose(centroid(image[:, ::-1]), geometry.mirror_points((1, 2), 7))


def test_a_turn_about_the_middle_moves_points_as_pixels():
    """A quarter turn against numpy's, then by hand, and twice the size."""
    image = np.random.default_rng(0).integers(0, 256, (5, 5), np.uint8)
    turned = cv2.warpAffine(image, geometry.turn_about_middle(image.shape, 90), (5, 5))
    np.testing.assert_array_equal(turned, np.rot90(image))
    # the right end of the middle row of 4 x 6 pixels goes up, to the top of the middle column
    np.testing.assert_allclose(geometry.turn_about_middle((4, 6), 90) @ [5.5, 1.5, 1], [2.5, -1.5], atol=1e-12)
    np.testing.assert_allclose(geometry.turn_about_middle((4, 6), 0, 2) @ [0, 0, 1], [-2.5, -1.5], atol=1e-12)


def test_spacing_is_row_then_column():
    np.testing.assert_array_equal(geometry.millimetres_per_pixel((0.1, 0.2)), [0.2, 0.1])


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.2, 0.15), (0.5, 0.5)])
def test_to_roi_and_to_image_are_inverses(side, spacing):
    frame = RoiFrame.around((123.25, 88.5), 140, spacing, side=side, roi_spacing_mm=0.3)
    points = np.random.default_rng(1).uniform(-50, 600, (20, 2))
    np.testing.assert_allclose(frame.to_image(frame.to_roi(points)), points, atol=1e-9)
    np.testing.assert_allclose(frame.to_roi(frame.center), [(466 - 1) / 2] * 2, atol=1e-9)


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.2, 0.15), (0.45, 0.5)])
def test_crop_shows_a_spot_where_to_roi_says(side, spacing):
    spot = np.array([101.3, 77.8])
    image = blob((180, 220), spot, sigma=4)
    frame = RoiFrame.around((97.0, 84.5), 24, spacing, side=side, roi_spacing_mm=0.3)
    roi = frame.crop(image)
    assert roi.shape == (80, 80)
    np.testing.assert_allclose(centroid(roi), frame.to_roi(spot), atol=0.05)


def test_left_rois_are_mirror_images_of_right_ones():
    image = np.random.default_rng(2).random((50, 60), dtype=np.float32)
    right = RoiFrame.around((30, 25), 8, (0.4, 0.4), side="R", roi_spacing_mm=0.4)
    left = RoiFrame.around((30, 25), 8, (0.4, 0.4), side="L", roi_spacing_mm=0.4)
    np.testing.assert_allclose(left.crop(image), right.crop(image)[:, ::-1], atol=1e-5)


@pytest.mark.parametrize("side", ["L", "R"])
def test_a_frame_turned_over_shows_the_same_of_the_image_turned_over(side):
    image = np.random.default_rng(2).random((50, 60), dtype=np.float32)
    frame = RoiFrame.around((30.3, 14.75), 8, (0.4, 0.3), side=side, roi_spacing_mm=0.5)
    over, point = frame.turned_over(50), np.array([[28.0, 16.0]])
    np.testing.assert_allclose(over.crop(np.ascontiguousarray(image[::-1])), frame.crop(image), atol=1e-5)
    np.testing.assert_allclose(over.to_roi([[28.0, 49 - 16.0]]), frame.to_roi(point), atol=1e-9)
    np.testing.assert_allclose(over.to_image(over.to_roi(point)), point, atol=1e-9)
    assert over.turned_over(50) == frame


def test_turned_points_follow_the_pixels_of_a_flip():
    image = blob((40, 30), (12.3, 7.8), sigma=2)
    np.testing.assert_allclose(geometry.turn_points_over((12.3, 7.8), 40), centroid(image[::-1]), atol=0.01)


def test_crop_at_whole_pixels_is_a_slice():
    image = np.arange(600, dtype=np.uint16).reshape(20, 30)
    frame = RoiFrame((9.5, 7.5), (1.0, 1.0), (4, 4))
    np.testing.assert_array_equal(frame.crop(image), image[6:10, 8:12])


def test_crop_outside_the_image_is_fill():
    image = np.ones((10, 10), np.float32)
    assert (RoiFrame((500.0, 5.0), (1.0, 1.0), (4, 6)).crop(image, fill=7) == 7).all()
    half = RoiFrame((-0.5, 4.5), (1.0, 1.0), (4, 4)).crop(image)
    np.testing.assert_array_equal(half, [[0, 0, 1, 1]] * 4)


def test_crop_of_a_fine_film_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (90, 45))  # one-pixel stripes at 0.1 mm: grey at 0.3 mm
    roi = RoiFrame((44.5, 44.5), (3.0, 3.0), (20, 20)).crop(stripes)
    assert abs(roi.astype(float) - 127.5).max() < 16  # a plain bilinear sample sees 0 or 255


@pytest.mark.parametrize("side", ["L", "R"])
def test_covering_shows_the_box_from_border_to_border(side):
    frame = RoiFrame.covering((20, 60, 0, 30), (0.5, 0.25), side=side, roi_spacing_mm=1.0)
    assert frame.size == (10, 15)
    corners = frame.to_roi([[19.5, -0.5], [59.5, 29.5]])
    edges = [[-0.5, -0.5], [9.5, 14.5]] if side == "R" else [[9.5, -0.5], [-0.5, 14.5]]
    np.testing.assert_allclose(corners, edges, atol=1e-9)


def test_sizes_are_whole_pixels_in_spite_of_floating_point():
    assert RoiFrame.around((0, 0), 45, (1, 1), side="R", roi_spacing_mm=0.3).size == (150, 150)
    assert RoiFrame.around((0, 0), 140, (1, 1), side="R", roi_spacing_mm=0.3).size == (466, 466)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"side": "l"}, "'l'"), ({"roi_spacing_mm": -0.3}, "positive"), ({"size_mm": 0}, "positive")],
)
def test_impossible_windows_are_refused(change, words):
    arguments = {"size_mm": 140, "spacing_mm": (0.1, 0.1), "side": "R", "roi_spacing_mm": 0.3} | change
    with pytest.raises(ValueError, match=words):
        RoiFrame.around((0, 0), **arguments)
