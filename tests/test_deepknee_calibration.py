"""Temperature by its derivative and by tempering known probabilities; cross-fitting without a subject on both sides."""

import numpy as np
import pytest
from scipy.special import softmax

from deepknee.calibration import cross_fit, fit_all, fit_temperature, mean_probabilities, why_doubtful


def drawn(count: int, seed: int, networks: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits of networks that agree but for noise, and grades drawn from their mean probability."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 5)) + rng.normal(0, 0.7, (networks, count, 5))
    chances = softmax(logits, axis=-1).mean(0)
    return logits, (rng.random((count, 1)) > chances.cumsum(1)).sum(1).clip(0, 4)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_tempered_probabilities_are_those_of_tempered_logits(temperature: float) -> None:
    logits, _ = drawn(50, seed=0, networks=3)
    expected = softmax(logits / temperature, axis=-1).mean(0)
    np.testing.assert_allclose(mean_probabilities(softmax(logits, axis=-1), temperature), expected, atol=1e-9)
    halfway = softmax(logits / 2, axis=-1)  # probabilities that were tempered before
    np.testing.assert_allclose(mean_probabilities(halfway, temperature / 2), expected, atol=1e-9)


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_fit_undoes_a_known_temperature(true: float, networks: int) -> None:
    logits, grades = drawn(8000, seed=1, networks=networks)
    sharpened = softmax(logits * true, axis=-1)
    assert fit_temperature(sharpened, grades) == pytest.approx(true, rel=0.05)


def test_the_derivative_is_zero_at_the_fit_of_one_network() -> None:
    """d CE / d(1/T) = mean over knees of (expected logit - true logit), in closed form."""
    logits, grades = drawn(500, seed=2)
    temperature = fit_temperature(softmax(logits * 1.7, axis=-1), grades) / 1.7  # relative to the logits themselves
    chances = softmax(logits[0] / temperature, axis=1)
    slope = (chances * logits[0]).sum(1) - logits[0][np.arange(500), grades]
    assert slope.mean() == pytest.approx(0, abs=1e-3)


def test_temperature_changes_no_grade_of_one_network_and_zero_probabilities_are_no_trouble() -> None:
    logits, grades = drawn(200, seed=3)
    rounded = softmax(logits * 6, axis=-1).round(2)
    rounded /= rounded.sum(2, keepdims=True)
    assert (rounded == 0).any()
    temperature = fit_temperature(rounded, grades)
    assert temperature > 1
    np.testing.assert_array_equal(mean_probabilities(rounded, temperature).argmax(1), rounded[0].argmax(1))
    with pytest.raises(ValueError, match="no knee"):
        fit_temperature(np.zeros((1, 0, 5)), np.zeros(0, int))


def test_a_fit_on_networks_that_tell_nothing_is_doubted() -> None:
    logits, grades = drawn(400, seed=3)
    known = softmax(logits, axis=-1)
    assert why_doubtful(known, grades, fit_temperature(known, grades)) is None

    def doubt(networks: np.ndarray) -> str:
        return why_doubtful(networks, grades, fit_temperature(networks, grades)) or ""

    assert "every knee gets the same probabilities" in doubt(np.full((1, 400, 5), 0.2))
    assert "every knee gets the same probabilities" in doubt(np.tile([0.1, 0.2, 0.4, 0.2, 0.1], (2, 400, 1)))
    shares = np.bincount(grades, minlength=5) / 400
    words = f"{-(shares * np.log(shares)).sum():.3f} of the frequencies"
    assert words in doubt(np.random.default_rng(0).permutation(known[0])[None])  # the answers of other knees
    right = np.full((1, 400, 5), 0.1) + 0.5 * np.eye(5)[grades]
    assert "lies at the end of 0.05 to 20" in doubt(right)


def test_fit_of_all() -> None:
    """It undoes a known sharpening, and its sets hold the true grade of as many other knees as was asked for."""
    (logits, grades), (others, truth) = (drawn(4000, seed, networks=2) for seed in (4, 14))
    temperature, conformal = fit_all(softmax(2 * logits, axis=-1), grades, coverage=0.8, largest=3)
    assert temperature == pytest.approx(2, rel=0.05)
    sets = conformal.sets(softmax(others, axis=-1).mean(0))  # what tempering gives back of sharpened ones
    assert sets[np.arange(4000), truth].mean() == pytest.approx(0.8, abs=0.025)
    assert (conformal.coverage, conformal.largest, conformal.networks) == (0.8, 3, 2)


def test_no_knee_is_judged_by_a_fit_that_its_subject_was_in() -> None:
    """Change the grades of one subject: what is said of its own knees stays, whatever the split."""
    logits, grades = drawn(60, seed=5)
    networks = softmax(logits, axis=-1)
    subjects = [number // 2 for number in range(60)]
    before = cross_fit(networks, grades, subjects, splits=1)
    rows = next(np.array([2 * s, 2 * s + 1]) for s in range(5, 30) if grades[2 * s] != grades[2 * s + 1])
    changed = grades.copy()
    changed[rows] = changed[rows[::-1]]  # same grades within the subject, so that the halves stay the same
    after = cross_fit(networks, changed, subjects, splits=1)
    np.testing.assert_array_equal(after.probabilities[:, rows], before.probabilities[:, rows])
    np.testing.assert_array_equal(after.sets[:, rows], before.sets[:, rows])


def test_cross_fitted_coverage_and_calibration() -> None:
    logits, grades = drawn(2000, seed=6, networks=2)
    found = cross_fit(softmax(3 * logits, axis=-1), grades, range(2000), splits=4)
    assert found.temperatures == pytest.approx(3, rel=0.15)
    hit = found.sets[:, np.arange(2000), grades]
    assert hit.mean() == pytest.approx(0.9, abs=0.015)
    np.testing.assert_array_equal(found.abstain, found.sets.sum(2) > 2)
    np.testing.assert_allclose(found.probabilities.sum(2), 1)
    for split in range(4):  # within a half, one temperature: grades are those of the tempered mean
        fits = [mean_probabilities(softmax(3 * logits, axis=-1), t) for t in found.temperatures[split]]
        either = [np.isclose(found.probabilities[split], fit).all(1) for fit in fits]
        assert (either[0] | either[1]).all()
        assert 900 < either[0].sum() < 1100
