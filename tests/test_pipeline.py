import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from oracle import GEOMETRY, SHAPE_MM, FakeGrader, FakeLocalizer, film, place_knee

import deepknee
from deepknee.conformal import Conformal
from deepknee.draw import attention_picture, landmark_picture
from deepknee.knee_reading import ReadingError
from deepknee.member import GraderSettings
from deepknee.networks import build_net
from deepknee.output import no_knee
from deepknee.patches import PatchGeometry
from deepknee.pipeline import DeviceError, Reader, choose_device, load_reader, read_knees
from deepknee.weights import WeightsError
from kneel.engine.snapshot import load_snapshot, save_snapshot
from kneel.measure import measure_knee
from kneel.network import HourglassSettings, build_network, network_arguments

RIGHT, LEFT = ("R", (120.0, 150.0)), ("L", (280.0, 150.0))


def read(*places, grader=None, **more):
    radiograph = film(**more)
    spacing = radiograph.spacing_mm or (0.5, 0.5)
    knees = [place_knee(side, center, spacing) for side, center in places]
    return read_knees(radiograph, FakeLocalizer(knees), grader or FakeGrader())


def test_a_knee_carries_what_localizer_grader_and_film_say():
    reading = read(RIGHT, LEFT)
    right, left = reading.knees
    assert (right.side, left.side) == ("R", "L")
    assert (right.kl, left.kl) == (2, 2)
    assert right.probabilities.tolist() == [0.1, 0.1, 0.5, 0.2, 0.1]
    assert right.landmarks.shape == (16, 2)
    assert right.landmarks[0].tolist() == [120 - 76, 162]  # 38 mm lateral and 6 mm below, at 0.5 mm
    assert left.landmarks[0].tolist() == [280 + 76, 162]
    assert right.roi.shape == right.attention.shape == (60, 60)
    assert right.roi.dtype == np.uint8
    assert (right.spacing_mm, right.spacing_kind) == ((0.5, 0.5), "detector")
    assert reading.radiograph.pixels.shape == (300, 400)


class GraderWithSets(FakeGrader):
    def predict(self, rois):
        return replace(super().predict(rois), conformal=Conformal(threshold=0.65, largest=1, networks=1))


def test_sets_come_from_the_grader_or_not_at_all():
    for knee in read(RIGHT, LEFT).knees:
        assert (knee.grade_set, knee.coverage, knee.abstain) == ((), None, None)
    for knee in read(RIGHT, LEFT, grader=GraderWithSets()).knees:  # .5 of KL 2, then .2 of KL 3 pass .65
        assert (knee.grade_set, knee.coverage, knee.abstain) == ((2, 3), 0.9, True)


def test_film_without_knees_is_a_reading_without_knees():
    assert read().knees == ()


def test_left_roi_is_mirrored_and_lateral_is_at_small_x():
    right, left = read(RIGHT, LEFT).knees
    # the film brightens to the right: towards medial in the right knee, towards lateral in the left one
    assert right.roi[30, 5] < right.roi[30, 50]
    assert left.roi[30, 5] > left.roi[30, 50]
    for knee in (right, left):
        points = knee.frame.to_roi(knee.landmarks)
        assert points[0, 0] < points[4, 0] < points[8, 0]
        np.testing.assert_allclose(points[4], 29.5, atol=1e-9)  # the joint centre is the middle of the ROI


def test_on_a_film_from_behind_the_other_knee_is_mirrored():
    """Image left is the patient's left there: the left knee looks like a right one."""
    (left,) = read(("L", (120.0, 150.0)), columns_reversed=True).knees
    assert not left.frame.mirrored
    (right,) = read(("R", (280.0, 150.0)), columns_reversed=True).knees
    assert right.frame.mirrored


class UprightLocalizer(FakeLocalizer):
    """Is surer of films that brighten downwards; the film of the oracle does."""

    def locate(self, radiograph, film):
        upright = film[-1].mean() > film[0].mean()
        return [replace(knee, confidence=0.9 if upright else 0.2) for knee in super().locate(radiograph, film)]


@pytest.mark.parametrize("columns_reversed", [False, True])
def test_a_film_that_lies_upside_down_is_read_turned_over_and_told_in_its_own_pixels(columns_reversed):
    spacing = (0.5, 0.4)
    localizer = UprightLocalizer([place_knee(*place, spacing) for place in (RIGHT, LEFT)])
    upright = film(spacing_mm=spacing, columns_reversed=columns_reversed)
    wanted = read_knees(upright, localizer, FakeGrader())
    stored = upright.turned_over()
    assert stored.rows_reversed
    reading = read_knees(stored, localizer, FakeGrader())
    assert reading.radiograph is stored
    for knee, right in zip(reading.knees, wanted.knees, strict=True):
        assert knee.flags == ("upside_down", *right.flags)
        assert (knee.side, knee.kl, knee.measures) == (right.side, right.kl, right.measures)
        np.testing.assert_array_equal(knee.roi, right.roi)
        np.testing.assert_array_equal(knee.attention, right.attention)
        np.testing.assert_allclose(knee.landmarks, right.landmarks * (1, -1) + (0, 299))
        assert knee.center == pytest.approx((right.center[0], 299 - right.center[1]))
        np.testing.assert_allclose(knee.frame.to_roi(knee.landmarks), right.frame.to_roi(right.landmarks))
        for draw in (landmark_picture, attention_picture):
            drawn, expected = (draw(one.radiograph, each) for one, each in ((reading, knee), (wanted, right)))
            assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_a_header_that_calls_an_upright_film_upside_down_is_not_believed():
    localizer = UprightLocalizer([place_knee(*RIGHT, (0.5, 0.5))])
    (knee,) = read_knees(film(rows_reversed=True), localizer, FakeGrader()).knees
    (wanted,) = read_knees(film(), localizer, FakeGrader()).knees
    assert knee.flags == ("orientation_uncertain",)
    np.testing.assert_array_equal(knee.landmarks, wanted.landmarks)
    assert knee.frame == wanted.frame
    assert read_knees(film(rows_reversed=True), UprightLocalizer([]), FakeGrader()).knees == ()


def test_roi_is_cut_from_the_normalised_film():
    (knee,) = read(RIGHT).knees
    grey = film().pixels.astype(float)
    low, high = np.percentile(grey, [5, 99])
    x, y = np.rint(knee.frame.to_image([[10, 40]])[0]).astype(int)
    wanted = np.clip((grey[y, x] - low) / (high - low), 0, 1) * 255
    assert knee.roi[40, 10] == pytest.approx(wanted, abs=2)


def test_a_nominal_scale_is_no_spacing():
    (knee,) = read(RIGHT, spacing_mm=None, spacing_kind="none").knees
    assert (knee.spacing_mm, knee.spacing_kind) == (None, "none")
    assert knee.frame.scale == pytest.approx((4.0, 4.0))  # the ROI still got the localizer's 0.5 mm


def test_rois_are_cut_at_the_detector_and_measures_are_the_patients():
    """As the ROIs of OAI and MOST are: on a film whose magnification is known the knee must not be cut smaller."""
    patient = {"spacing_mm": (0.5, 0.5), "spacing_kind": "calibrated"}
    (knee,) = read(RIGHT, **patient, detector_mm=(0.57, 0.57)).knees
    assert knee.frame.scale == pytest.approx((2 / 0.57, 2 / 0.57))  # film pixels on one of the ROI, of 2 mm
    assert knee.measures == pytest.approx(measure_knee(knee.landmarks * 0.5))
    assert knee.flags == ()
    (knee,) = read(RIGHT, **patient).knees
    assert knee.frame.scale == pytest.approx((4, 4))
    assert knee.flags == ("smaller_than_trained",)
    following = FakeGrader(geometry=GEOMETRY.model_copy(update={"follow": "landmarks"}))
    assert read(RIGHT, **patient, grader=following).knees[0].flags == ()  # scaled by the knee


def test_both_knees_of_a_pair_measure_alike_and_without_spacing_in_tibial_widths():
    """The knees of the fake localizer are mirror images; the angle too must not depend on the side."""
    right, left = read(("R", (120.0, 150.0)), ("L", (280.0, 150.0))).knees
    assert right.measures == pytest.approx(left.measures)
    direct = measure_knee(right.landmarks * 0.5)
    assert (right.measures, right.length_unit) == (pytest.approx(direct), "mm")
    (bare,) = read(RIGHT, spacing_mm=None, spacing_kind="none").knees
    assert (bare.measures.tibial_width, bare.length_unit) == (1, "tibial width")
    assert bare.measures.jsw_medial == pytest.approx(direct.jsw_medial / direct.tibial_width)
    assert bare.measures.jlca_deg == pytest.approx(direct.jlca_deg)


@pytest.mark.parametrize(("center", "flags"), [((120.0, 150.0), ()), ((40.0, 150.0), ("roi_outside_film",))])
def test_roi_that_leaves_the_film_is_flagged(center, flags):
    (knee,) = read(("R", center)).knees  # the ROI is 240 film pixels wide
    assert knee.flags == flags


@pytest.mark.parametrize(
    ("view", "other", "flags"),
    [
        ("PA", None, ()),
        (None, None, ()),
        ("LATERAL", None, ("view_not_ap_pa",)),
        ("AP", "lateral", ("view_uncertain",)),
        ("LATERAL", "AP", ("view_uncertain",)),
    ],
)
def test_another_view_than_frontal_is_flagged(view, other, flags):
    (knee,) = read(RIGHT, view=view, other_view=other).knees
    assert knee.flags == flags


def test_a_header_that_names_two_sides_is_doubted_once():
    (knee,) = read(RIGHT, side_contradicted=True).knees
    assert knee.flags == ("side_uncertain",)


def test_a_knee_on_a_film_that_is_to_lie_on_its_side_is_flagged():
    (knee,) = read(RIGHT, on_side="F\\R").knees
    assert knee.flags == ("on_side",)


def test_a_film_on_its_side_without_a_knee_names_the_tag():
    said = no_knee(film(on_side="F\\R"))
    tag = "(0020,0020) Patient Orientation, F\\R,"
    assert said.startswith("no knee found at its spacing of ")
    assert said.endswith(f"; by {tag} the film lies on its side: if it does, turn it upright")


def test_a_magnification_that_was_not_divided_out_is_flagged():
    (knee,) = read(RIGHT, magnification_ignored=True).knees
    assert knee.flags == ("magnification_ignored",)


def test_flags_of_the_localizer_come_first():
    knee = replace(place_knee("R", (20.0, 150.0), (0.5, 0.5)), flags=("low_confidence",))
    (found,) = read_knees(film(), FakeLocalizer([knee]), FakeGrader()).knees
    assert found.flags == ("low_confidence", "roi_outside_film")


@pytest.mark.parametrize("probabilities", [[np.nan] * 5, [0.5, 0.5, 0.5, 0, 0], [-0.5, 1.5, 0, 0, 0], [0.5, 0.5]])
def test_probabilities_that_are_none_are_refused(probabilities):
    with pytest.raises(ReadingError, match="probabilities of knee R"):
        read(RIGHT, grader=FakeGrader(np.array(probabilities, float)))


def test_landmarks_that_are_none_are_refused():
    knee = replace(place_knee("R", (120.0, 150.0), (0.5, 0.5)), landmarks=np.full((16, 2), np.nan))
    with pytest.raises(ReadingError, match="16 finite points"):
        read_knees(film(), FakeLocalizer([knee]), FakeGrader())


def test_two_knees_of_one_side_are_refused():
    with pytest.raises(ReadingError, match="sides of the knees are"):
        read(RIGHT, RIGHT)


def test_reader_hands_spacing_to_the_file_reader(tmp_path):
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), film().pixels)
    reader = Reader(FakeLocalizer([place_knee("R", (120.0, 150.0), (0.5, 0.5))]), FakeGrader())
    (knee,) = reader.read(path, spacing_mm=(0.5, 0.5)).knees
    assert (knee.spacing_mm, knee.spacing_kind) == ((0.5, 0.5), "given")
    assert reader.read(path).knees[0].spacing_kind == "none"


def test_devices():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(DeviceError, match="'tpu': must be one of auto, cpu, cuda"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(DeviceError, match="no CUDA device"):
        choose_device("cuda")


def test_package_loads_no_torch_until_it_is_asked():
    before, after = "assert 'torch' not in sys.modules", "assert 'torch' in sys.modules"
    code = f"import deepknee.cli, sys; {before}; deepknee.load_reader; {after}"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deepknee.nothing


def untrained(folder):
    """Small networks with random weights, as training leaves them."""
    torch.manual_seed(0)
    settings = HourglassSettings(width=4, depth=2)
    for task, points, size in (("lc", 1, (64, 96)), ("hc", 16, (64, 64))):
        arguments = network_arguments(points, 0.5, 0.25, settings)
        meta = {"task": task, "experiment": {}, "fold": 0, "network": arguments}
        meta |= {"roi": {"spacing_mm": 3.0, "size": size}, "metrics": {"spread_mm": 5.0}}
        if task == "hc":
            meta["shape"] = {"points": SHAPE_MM.tolist(), "residual": 1e6}  # whatever comes out is a knee
        (folder / task / "fold_0").mkdir(parents=True)
        save_snapshot(folder / task / "fold_0" / "best.safetensors", build_network(arguments).state_dict(), meta)
    geometry = PatchGeometry(roi_mm=120.0, roi_px=120, crop=100, patch=50, top=25)  # the network needs 49 pixels
    described = {"model": {"width": 2}, "geometry": geometry.model_dump(mode="json")}
    described |= {"intensity": {"mean": 0.5, "std": 0.25}}
    net = build_net(GraderSettings.model_validate_json(json.dumps(described)).model)
    (folder / "kl" / "fold_0").mkdir(parents=True)
    meta = {"task": "kl", "experiment": {}, "fold": 0, **described}
    save_snapshot(folder / "kl" / "fold_0" / "best.safetensors", net.state_dict(), meta)


def test_reader_is_rebuilt_from_snapshots_alone(tmp_path):
    untrained(tmp_path)
    reader = load_reader(tmp_path, device="cpu")
    reading = read_knees(film(laterality="R"), reader.localizer, reader.grader)
    assert {knee.side for knee in reading.knees} <= {"R", "L"}
    assert [task for task in ("lc", "hc", "kl") if len(reader.weights.paths(task)) == 1] == ["lc", "hc", "kl"]


def test_networks_that_do_not_belong_together_are_a_matter_of_weights(tmp_path):
    untrained(tmp_path)
    path = tmp_path / "hc" / "fold_0" / "best.safetensors"
    tensors, meta = load_snapshot(path)
    save_snapshot(path, tensors, {key: value for key, value in meta.items() if key != "shape"})
    with pytest.raises(WeightsError, match="mean shape"):
        load_reader(tmp_path, device="cpu")
