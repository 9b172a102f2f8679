"""The published search and ours with the same networks: the same points and grades, one written down plainly."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from deepknee.ensemble import Grader
from deepknee.intensity import Intensity
from deepknee.member import GraderSettings, Member
from deepknee.networks import SiameseSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.pipeline import read_knees
from kneel.convert import read_fold
from kneel.imaging.radiograph import Radiograph, normalize_percentiles
from kneel.imaging.schema import CENTER
from kneel.localize import KneeLocalizer
from kneel.network import HourglassSettings, LandmarkNet
from kneel.phantom.render import FilmSpec, render_film
from kneel.plain import locate_plainly
from kneel.shape import MeanShape
from kneel.stage import Stage, faster

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT.parent / "shared" / "parity"
CPU = torch.device("cpu")
PX, CHANCE = 0.05, 1e-3  # what the two may differ by


@pytest.fixture(scope="module")
def film():
    """A phantom of both knees, 0.4 mm."""
    drawn = render_film(FilmSpec(700, 1000, 0.4, (("R", 2), ("L", 3))), np.random.default_rng(1))
    pixels = (255 * normalize_percentiles(drawn.pixels)).astype(np.uint8)
    return Radiograph(pixels, spacing_mm=(0.4, 0.4), spacing_kind="detector")


def net(landmarks, seed, width):
    """A network of the authors' kind whose batch norms have seen something."""
    torch.manual_seed(seed)
    settings = HourglassSettings(width=width, depth=4, channels=3, align_corners=True, grid="corner")
    made = LandmarkNet(landmarks=landmarks, mean=0.3, std=0.3, settings=settings).train()
    with torch.no_grad():
        made(torch.rand(2, 1, 64, 64))
    return made.eval()


def stages(nets, *, size, spacings=(1.0, 0.3)):
    """Both stages, believing whatever they find: random networks look at a film as if it were noise."""
    shape = MeanShape(np.random.default_rng(0).normal(size=(16, 2)), 1e6)
    return [
        Stage(each, spacing_mm=mm, size=(size, size), device=CPU, typical_spread_mm=1e6, shape=shape)
        for each, mm in zip(nets, spacings, strict=True)
    ]


def both_ways(film, nets, *, size, **how):
    """Points found plainly and by the localizer, of both knees."""
    plain = locate_plainly(normalize_percentiles(film.pixels), film.spacing_mm, *stages(nets, size=size, **how))
    fast = [[faster(copy.deepcopy(each), (size, size), CPU) for each in stage] for stage in nets]
    found = KneeLocalizer(*stages(fast, size=size, **how)).locate(film)
    assert [knee.side for knee in found] == ["R", "L"]
    return plain, {knee.side: knee.landmarks for knee in found}


def check(plain, fast):
    for side in ("R", "L"):
        assert np.ptp(plain[side], axis=0).max() > 10 * PX  # the points are not all the same
        np.testing.assert_allclose(fast[side], plain[side], rtol=0, atol=PX)


def test_five_folds_answer_as_the_plain_way(film):
    nets = [[net(points, 10 * points + fold, width=8) for fold in range(5)] for points in (1, 16)]
    plain, fast = both_ways(film, nets, size=225, spacings=(2.0, 0.6))
    check(plain, fast)
    once = locate_plainly(
        normalize_percentiles(film.pixels), film.spacing_mm, *stages(nets, size=225, spacings=(2.0, 0.6)), passes=1
    )
    assert abs(once["R"] - plain["R"]).max() > 4 * PX  # the second look matters, so it was taken


@pytest.mark.slow
def test_networks_of_the_published_size_answer_as_the_plain_way(film):
    """Width 24, 450 pixels of 0.3 mm: where wide convolutions are computed otherwise. The authors' fold where it is."""
    landmarks = net(16, 1, width=24)
    fold = PARITY / "kneel_hc_fold_0.pth"
    if fold.exists():
        landmarks.net.load_state_dict(read_fold(fold))
    check(*both_ways(film, [[net(1, 0, width=24)], [landmarks]], size=450))


def grader(width):
    how = GraderSettings(
        model=SiameseSettings(width=width),
        geometry=PatchGeometry(),
        intensity=Intensity(mean=0.5, std=0.25),
        mode="2018",
    )
    torch.manual_seed(width)
    members = [Member(build_net(how.model).eval(), how) for _ in range(3)]
    with torch.no_grad():
        for member in members:
            member.net.final[1].weight.mul_(3)  # grades apart, so that a wrong one would show
    return Grader(members)


def test_three_graders_answer_as_the_plain_way(film):
    """Patches cut by hand out of a ROI around landmark 4, one knee and one network at a time; softmax of the sum.

    The attention maps are held against those of the authors' code in test_deepknee_convert.
    """
    nets = [[net(points, points, width=4)] for points in (1, 16)]
    localizer, three = KneeLocalizer(*stages(nets, size=225, spacings=(2.0, 0.6))), grader(8)
    reading = read_knees(film, localizer, three)
    picture = np.rint(255 * normalize_percentiles(film.pixels)).astype(np.uint8)
    for knee in reading.knees:
        frame = three.geometry.frame(knee.landmarks[CENTER], film.spacing_mm, knee.side)
        roi = torch.from_numpy(frame.crop(picture)).float()[None, None] / 255
        lateral, medial = roi[..., 125:253, 25:153], roi[..., 125:253, 197:325].flip(-1)
        seen = [(patch - 0.5) / 0.25 for patch in (lateral, medial)]
        with torch.no_grad():
            features = [member.net.features(*seen) for member in three.members]
            logits = sum(member.net.judge(*maps) for member, maps in zip(three.members, features, strict=True))
        np.testing.assert_allclose(knee.probabilities, logits.softmax(1)[0].numpy(), rtol=0, atol=CHANCE)
        assert np.ptp(knee.probabilities) > 0.02
