from pathlib import Path

import numpy as np
import pytest
import torch

from deepknee.conformal import Conformal
from deepknee.ensemble import Grader
from deepknee.intensity import Intensity, adjust_contrast
from deepknee.member import GraderSettings, Member, load_member
from deepknee.model import KneeNet
from deepknee.networks import SiameseSettings, build_net
from deepknee.patches import PatchGeometry
from deepknee.views import turned, turned_from
from kneel.engine.snapshot import SnapshotError, save_snapshot

PARITY = Path(__file__).resolve().parents[1].parent / "shared" / "parity"
GEOMETRY = PatchGeometry(roi_mm=50.0, roi_px=140, crop=136, patch=64, top=40)


def settings(geometry: PatchGeometry = GEOMETRY, temperature: float = 1.0, contrast: str = "film") -> GraderSettings:
    intensity = Intensity(contrast=contrast, mean=0.4, std=0.2)  # type: ignore[arg-type]
    return GraderSettings(
        model=SiameseSettings(width=2), geometry=geometry, intensity=intensity, temperature=temperature
    )


def member(seed: int, **options: object) -> Member:
    torch.manual_seed(seed)
    return Member(build_net(SiameseSettings(width=2)).eval(), settings(**options))  # type: ignore[arg-type]


def random_rois(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 140, 140), np.uint8)


def logits(part: Member, rois: np.ndarray) -> torch.Tensor:
    """Written out once more, by hand and without the code under test."""
    patches = [
        torch.from_numpy(rois[:, 42:106, 2:66] / 255),
        torch.from_numpy(rois[:, 42:106, 74:138][..., ::-1] / 255),
    ]
    lateral, medial = (((patch - 0.4) / 0.2).float()[:, None] for patch in patches)
    with torch.no_grad():
        return part.net(lateral, medial).double()


def test_mean_of_probabilities() -> None:
    members, rois = [member(0), member(1, temperature=2.0)], random_rois(3)
    first, second = (logits(part, rois) for part in members)
    expected = (first.softmax(1) + (second / 2).softmax(1)) / 2
    grade = Grader(members).predict(rois)
    np.testing.assert_allclose(grade.probabilities, expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(grade.kl, expected.argmax(1).numpy())


def test_networks_one_by_one() -> None:
    members, rois = [member(0), member(1, temperature=2.0)], random_rois(3)
    by_hand = torch.stack([logits(members[0], rois).softmax(1), (logits(members[1], rois) / 2).softmax(1)])
    for mode in ("mean", "2018"):
        np.testing.assert_allclose(Grader(members, mode=mode).predict(rois).members, by_hand.numpy(), atol=1e-6)
    assert Grader(members).predict(random_rois(0)).members.shape == (2, 0, 5)  # type: ignore[union-attr]


def with_sets(seed: int, networks: int, threshold: float = 0.5) -> Member:
    plain = member(seed)
    sets = Conformal(threshold=threshold, networks=networks)
    return Member(plain.net, plain.settings.model_copy(update={"conformal": sets}))


def test_sets_come_from_the_threshold_of_the_snapshots() -> None:
    grade = Grader([with_sets(0, 2), with_sets(1, 2)]).predict(random_rois(3))
    expected = Conformal(threshold=0.5, networks=2).sets(grade.probabilities)
    np.testing.assert_array_equal(grade.sets, expected)
    np.testing.assert_array_equal(grade.abstain, expected.sum(1) > 2)


def test_no_sets_but_those_of_just_this_ensemble() -> None:
    others = {
        "no threshold": [member(0)],
        "one of two without": [with_sets(0, 2), member(1)],
        "one of three left out": [with_sets(0, 3), with_sets(1, 3)],
        "two fits": [with_sets(0, 2, 0.5), with_sets(1, 2, 0.6)],
    }
    for what, members in others.items():
        grade = Grader(members).predict(random_rois(1))
        assert (grade.sets, grade.abstain) == (None, None), what
    assert Grader([with_sets(0, 1)], mode="2018").predict(random_rois(1)).sets is None


def test_a_calibration_that_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        part = with_sets(seed, 2)
        save_snapshot(path, part.net.state_dict(), {"task": "kl", **part.settings.model_dump(mode="json")})
    assert Grader.from_snapshots(paths).conformal is not None
    assert caplog.messages == []
    assert Grader.from_snapshots(paths[:1]).conformal is None
    (said,) = caplog.messages
    assert said.startswith(f"{paths[0]}: calibrated with other networks or turns than now (1 of 1 networks hold")
    assert "without sets of grades. scripts/calibrate_kl.py calibrates" in said


def test_a_temperature_of_an_ensemble_acts_in_it_alone() -> None:
    """A network by itself, or beside another, is as it was trained; one whose own temperature was given keeps it."""
    rois, sets = random_rois(3), Conformal(threshold=0.5, networks=2)
    hot = [member(seed, temperature=2.0) for seed in (0, 1)]
    fitted = [Member(part.net, part.settings.model_copy(update={"conformal": sets})) for part in hot]
    plain = [Grader([member(seed)]).predict(rois).probabilities for seed in (0, 1)]
    warm = [Grader([part]).predict(rois).probabilities for part in hot]
    assert np.abs(np.subtract(plain, warm)).max() > 0.01
    np.testing.assert_allclose(Grader(fitted).predict(rois).members, warm, atol=1e-9)
    np.testing.assert_allclose(Grader(fitted[:1]).predict(rois).members, plain[:1], atol=1e-9)
    np.testing.assert_allclose(Grader([fitted[0], hot[1]]).predict(rois).members, [plain[0], warm[1]], atol=1e-9)


def with_turns(seed: int, *turns_deg: float) -> Member:
    plain = member(seed)
    return Member(plain.net, plain.settings.model_copy(update={"turns_deg": turns_deg}))


def test_a_quarter_turn_goes_round_counter_clockwise() -> None:
    rois = random_rois(2)
    np.testing.assert_array_equal(turned(rois, 90), np.rot90(rois, axes=(1, 2)))
    np.testing.assert_array_equal(turned(rois, 0), rois)


def test_turned_knees_are_averaged_in_and_explained_upright() -> None:
    rois, upright = random_rois(3), [member(0), member(1)]
    looks = [turned(rois, degrees) for degrees in (0, -6, 6)]
    by_hand = torch.stack([logits(part, look).softmax(1) for part in upright for look in looks]).numpy()
    grader = Grader([with_turns(seed, -6.0, 6.0) for seed in (0, 1)])
    grade = grader.predict(rois)
    np.testing.assert_allclose(grade.members, by_hand, atol=1e-6)
    np.testing.assert_allclose(grade.probabilities, by_hand.mean(0), atol=1e-6)
    probabilities, members = grader.judge(rois)
    np.testing.assert_allclose(probabilities, grade.probabilities, atol=1e-12)
    np.testing.assert_allclose(members, grade.members, atol=1e-12)  # type: ignore[arg-type]
    alone = Grader(upright).predict(rois)
    same = alone.kl == grade.kl  # of another grade there is another map
    assert same.any()
    np.testing.assert_allclose(grade.attention[same], alone.attention[same], atol=1e-6)


@pytest.mark.parametrize("degrees", [0, -6, 6, 37, 90])
def test_where_turned_pixels_come_from_by_lighting_them_one_by_one(degrees: float) -> None:
    shown = np.zeros((24, 24), bool)
    shown[3:9, 2:20] = shown[15, 15] = shown[20:, :3] = True
    one_by_one = np.eye(24 * 24, dtype=np.float32).reshape(-1, 24, 24)
    reached = turned(one_by_one, degrees)[:, shown].any(1).reshape(24, 24)
    np.testing.assert_array_equal(turned_from(shown, degrees), reached)


def test_pixels_that_no_look_shows_change_no_grade() -> None:
    rois = random_rois(2)
    upright, grader = Grader([member(0)]), Grader([with_turns(0, -6.0, 6.0)])
    np.testing.assert_array_equal(grader.upright, upright.seen)
    assert grader.seen[upright.seen].all()
    dark = np.where(grader.seen, rois, 0).astype(np.uint8)
    assert (dark != rois).any()
    np.testing.assert_array_equal(grader.judge(dark)[0], grader.judge(rois)[0])
    assert (grader.judge(np.where(upright.seen, rois, 0).astype(np.uint8))[0] != grader.judge(rois)[0]).all()
    assert not grader.predict(rois).attention[:, ~grader.upright].any()


def test_sets_fitted_upright_are_not_those_of_turned_knees() -> None:
    fitted = with_sets(0, 1)
    turns = Member(fitted.net, fitted.settings.model_copy(update={"turns_deg": (6.0,)}))
    assert Grader([fitted]).conformal is not None
    assert Grader([turns]).conformal is None


def fitted_with(seed: int, fitted: tuple[float, ...], used: tuple[float, ...]) -> Member:
    """A network with two turns; its threshold was fitted for two networks with the given ones."""
    turns = with_turns(seed, *used)
    sets = Conformal(threshold=0.5, networks=6, turns_deg=fitted)
    return Member(turns.net, turns.settings.model_copy(update={"conformal": sets, "temperature": 2.0}))


def test_sets_and_temperature_are_of_the_angles_that_they_were_fitted_with() -> None:
    for used, right in [((-6.0, 6.0), True), ((6.0, -6.0), True), ((-12.0, 12.0), False), ((-6.0, 7.0), False)]:
        grader = Grader([fitted_with(seed, (-6.0, 6.0), used) for seed in (0, 1)])
        assert (grader.conformal is not None) is right, used
        assert grader.temperatures == ([2.0, 2.0] if right else [1.0, 1.0]), used


def test_thresholds_stored_without_angles_have_those_beside_them(tmp_path: Path) -> None:
    part, path = fitted_with(0, (-6.0, 6.0), (-6.0, 6.0)), tmp_path / "net.safetensors"
    described = part.settings.model_dump(mode="json")
    save_snapshot(path, part.net.state_dict(), {"task": "kl", **described})
    assert load_member(path).settings == part.settings
    del described["conformal"]["turns_deg"]
    save_snapshot(path, part.net.state_dict(), {"task": "kl", **described})
    assert load_member(path).settings == part.settings


def test_turns_are_of_the_mean_and_common_to_all() -> None:
    rois = random_rois(1)
    one = Grader([with_turns(0, 6.0)], mode="2018").predict(rois)
    np.testing.assert_array_equal(one.probabilities, Grader([member(0)], mode="2018").predict(rois).probabilities)
    with pytest.raises(ValueError, match="different turns"):
        Grader([with_turns(0, 6.0), member(1)])
    described = with_turns(0, 6.0).settings.model_dump()
    with pytest.raises(ValueError, match="acts only in mode mean"):
        GraderSettings.model_validate({**described, "mode": "2018"})


def test_2018_is_the_softmax_of_summed_logits() -> None:
    members, rois = [member(0), member(1), member(2), member(3)], random_rois(2)
    expected = sum(logits(part, rois) for part in members).softmax(1)  # type: ignore[union-attr]
    np.testing.assert_allclose(Grader(members, mode="2018").predict(rois).probabilities, expected.numpy(), atol=1e-6)


def test_attention_lies_in_the_patches_and_reaches_one() -> None:
    attention = Grader([member(0), member(1)]).predict(random_rois(4)).attention
    assert attention.shape == (4, 140, 140)
    assert attention.dtype == np.float32
    np.testing.assert_allclose(attention.max((1, 2)), 1)
    windows = np.zeros((140, 140), bool)
    windows[42:106, 2:66] = windows[42:106, 74:138] = True
    assert not attention[:, ~windows].any()


def test_attention_of_a_medial_finding_is_medial() -> None:
    """A network whose only channel is brightness, read from the medial side alone, must look medially."""
    net = KneeNet(width=1).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.1)
        net.final[1].weight[:, :4] = 0
    part = Member(net, settings().model_copy(update={"model": SiameseSettings(width=1)}))
    attention = Grader([part]).predict(random_rois(1)).attention[0]
    assert attention[:, 74:].max() == 1
    assert attention[:, :74].max() == 0


def test_an_empty_map_stays_empty() -> None:
    part = member(0)
    with torch.no_grad():
        part.net.final[1].weight.zero_()
    assert not Grader([part]).predict(random_rois(1)).attention.any()


@pytest.mark.parametrize("mode", ["mean", "2018"])
def test_grades_without_attention_are_the_same(mode: str) -> None:
    grader, rois = Grader([member(0), member(1, temperature=2.0)], mode=mode), random_rois(35)  # type: ignore[arg-type]
    whole = grader.predict(rois)
    probabilities, members = grader.judge(rois)
    np.testing.assert_allclose(probabilities, whole.probabilities, atol=1e-12)
    np.testing.assert_allclose(members, whole.members, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 33])
def test_batches_do_not_matter(count: int) -> None:
    grader, rois = Grader([member(0)]), random_rois(count)
    together = grader.predict(rois)
    assert [part.shape for part in grader.judge(rois)] == [(count, 5), (1, count, 5)]
    assert together.probabilities.shape == (count, 5)
    assert together.attention.shape == (count, 140, 140)
    for number in range(0, count, 8):
        alone = grader.predict(rois[number : number + 1])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[number], atol=1e-5)


def test_contrast_of_the_snapshot_is_used() -> None:
    rois = random_rois(1) // 4 + 30
    plain, stretched = Grader([member(0)]), Grader([member(0, contrast="roi")])
    by_hand = plain.predict(adjust_contrast(rois[0], "roi", plain.geometry)[None])
    np.testing.assert_array_equal(stretched.predict(rois).probabilities, by_hand.probabilities)


def test_refusals() -> None:
    other = GEOMETRY.model_copy(update={"top": 41})
    with pytest.raises(ValueError, match="different geometry"):
        Grader([member(0), member(0, geometry=other)])
    with pytest.raises(ValueError, match="no network"):
        Grader([])
    with pytest.raises(ValueError, match="mode is 'median'"):
        Grader([member(0)], mode="median")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rois are float64"):
        Grader([member(0)]).predict(np.zeros((1, 140, 140)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be \\(N, 140, 140\\)"):
        Grader([member(0)]).predict(np.zeros((140, 140), np.uint8))


def test_snapshot_rebuilds_the_member(tmp_path: Path) -> None:
    part, path = member(0, temperature=1.5, contrast="roi"), tmp_path / "net.safetensors"
    sets = Conformal(threshold=0.123456789012345, networks=1)
    part = Member(part.net, part.settings.model_copy(update={"conformal": sets}))
    save_snapshot(path, part.net.state_dict(), {"task": "kl", **part.settings.model_dump(mode="json")})
    rois = random_rois(2)
    assert load_member(path).settings == part.settings
    plain = Grader([part]).predict(rois).probabilities
    np.testing.assert_allclose(Grader.from_snapshots([path]).predict(rois).probabilities, plain, atol=1e-6)


def test_snapshots_of_others_are_refused(tmp_path: Path) -> None:
    part, path = member(0), tmp_path / "net.safetensors"
    meta = {"task": "kl", **part.settings.model_dump(mode="json")}
    save_snapshot(path, part.net.state_dict(), {**meta, "task": "hc"})
    with pytest.raises(SnapshotError, match="task is 'hc'"):
        load_member(path)
    save_snapshot(path, part.net.state_dict(), {key: meta[key] for key in ("task", "model", "geometry")})
    with pytest.raises(SnapshotError, match=r"(?s)net\.safetensors.*intensity"):
        load_member(path)
    save_snapshot(path, build_net(SiameseSettings(width=3)).state_dict(), meta)
    with pytest.raises(SnapshotError, match=r"(?s)net\.safetensors.*size mismatch"):
        load_member(path)


@pytest.mark.parametrize("side", ["right", "left"])
def test_reading_of_the_authors_ensemble(side: str) -> None:
    """Crop, probabilities and heat map of the original pipeline; the left knee was mirrored before it."""
    if not PARITY.is_dir():
        pytest.skip("the authors' outputs are not beside this checkout")
    mean, std = np.load(PARITY / "deepknee_mean_std.npy").ravel().tolist()
    how = GraderSettings(model=SiameseSettings(), geometry=PatchGeometry(), intensity=Intensity(mean=mean, std=std))
    members = []
    for seed in range(3):
        weights = torch.load(PARITY / f"deepknee_seed_{seed}.pth", weights_only=True)
        net = build_net(how.model)
        net.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
        members.append(Member(net, how))
    expected = np.load(PARITY / "deepknee_predict.npz")
    roi = expected["img350"] if side == "right" else expected["img350"][:, ::-1]
    np.testing.assert_array_equal(roi[25:325, 25:325], expected[f"{side}_crop"])
    grade = Grader(members, mode="2018").predict(roi[None])
    np.testing.assert_allclose(grade.probabilities[0], expected[f"{side}_probs"], atol=1e-5)
    np.testing.assert_allclose(grade.attention[0, 25:325, 25:325], expected[f"{side}_heatmap"], atol=1e-4)
    assert grade.kl[0] == expected[f"{side}_kl"]
