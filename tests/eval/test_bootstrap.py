import numpy as np
import pytest
import torch

from diffguide.eval.bootstrap import FEWEST, Bootstrap, student_to_normal
from diffguide.eval.conclusions import conclude
from diffguide.eval.frechet import frechet_from_features
from diffguide.eval.leave_one_out import FrechetReference, leave_one_out, pseudo_values
from diffguide.eval.statistics import Statistics


def world(d, seed=0, decay=1.0):
    """Two features' distributions (mean, factor) that share their noise, and a reference."""
    random = np.random.default_rng(seed)
    spectrum = np.sqrt(np.arange(1, d + 1.0) ** -decay)
    basis = np.linalg.qr(random.normal(size=(d, d)))[0]
    turned = np.linalg.qr(random.normal(size=(d, d)) * 0.15 + np.eye(d))[0] @ basis
    a = random.normal(size=d) * 0.3 * spectrum, basis * spectrum
    b = random.normal(size=d) * 0.2 * spectrum, turned * (spectrum * np.sqrt(1 + 0.3 * np.sin(np.arange(d))))
    factor = torch.from_numpy(basis * spectrum * np.sqrt(1.3))
    return a, b, Statistics(torch.zeros(d, dtype=torch.float64), factor @ factor.T)


def draw(random, n, a, b, shared=0.8):
    noise = random.normal(size=(n, len(a[0])))
    other = shared * noise + np.sqrt(1 - shared**2) * random.normal(size=noise.shape)
    return torch.from_numpy(a[0] + noise @ a[1].T), torch.from_numpy(b[0] + other @ b[1].T)


@pytest.mark.parametrize(("n", "d"), [(40, 10), (20, 50), (50, 50), (51, 50), (8, 3)])
def test_leaving_one_out_is_exact(n, d):
    a, b, reference = world(d)
    features, _ = draw(np.random.default_rng(1), n, a, b)
    value, left_out = leave_one_out(features, FrechetReference(reference.mu, reference.sigma))
    every = torch.arange(n)
    expected = torch.tensor([frechet_from_features(features[every != i], reference) for i in range(n)])
    assert value == pytest.approx(frechet_from_features(features, reference), rel=1e-9)
    assert (left_out - expected).abs().max() < 0.01 * expected.std()


@pytest.mark.parametrize(("n", "d"), [(250, 256), (256, 256), (257, 256)])
def test_nor_does_rounding_count_where_images_are_about_as_many_as_features(n, d):
    """Singular values that all but vanish, as those of a network's features do."""
    random, scale = np.random.default_rng(0), np.logspace(0, -2.5, d)
    others = random.normal(size=(600, d)) * scale
    reference = Statistics(torch.from_numpy(others.mean(0)), torch.from_numpy(np.cov(others.T)))
    features = torch.from_numpy(random.normal(size=(n, d)) * scale + 0.1)
    value, left_out = leave_one_out(features, FrechetReference(reference.mu, reference.sigma))
    pseudo, every = pseudo_values(value, left_out), torch.arange(n)
    for i in (0, int(pseudo.argmin()), int(pseudo.argmax())):
        expected = n * value - (n - 1) * frechet_from_features(features[every != i], reference)
        assert pseudo[i] == pytest.approx(expected, abs=1e-3)


def one_trial(random, n, a, b, reference, root):
    x, y = draw(random, n, a, b)
    (first, first_left), (second, second_left) = leave_one_out(x, root), leave_one_out(y, root)
    pseudo = (pseudo_values(first, first_left) - pseudo_values(second, second_left)).numpy()
    return first - second, pseudo, x, y


def coverage(n, d, trials, seed=0):
    """How often the 95 % interval of a difference holds its expectation at n images."""
    a, b, reference = world(d)
    root, random = FrechetReference(reference.mu, reference.sigma), np.random.default_rng(seed)
    runs = [one_trial(random, n, a, b, reference, root)[:2] for _ in range(trials)]
    target, bootstrap = np.mean([value for value, _ in runs]), Bootstrap(n, replicates=1000)
    intervals = [bootstrap.interval(*run) for run in runs]
    return np.mean([interval.low <= target <= interval.high for interval in intervals])


@pytest.mark.parametrize(("n", "d"), [(24, 64), (128, 16)])
def test_intervals_hold_what_they_say(n, d):
    assert 0.91 <= coverage(n, d, 300) <= 0.99  # 95 % of 300 trials, give or take three standard errors


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(24, 96), (64, 64), (48, 256), (256, 64)])
def test_intervals_hold_what_they_say_in_many_trials(n, d):
    assert 0.925 <= coverage(n, d, 1000) <= 0.975


def test_spread_is_that_of_the_exact_bootstrap_without_its_bias():
    n, d = 200, 12
    a, b, reference = world(d)
    root, random = FrechetReference(reference.mu, reference.sigma), np.random.default_rng(3)
    value, pseudo, x, y = one_trial(random, n, a, b, reference, root)
    counts = torch.from_numpy(random.multinomial(n, np.full(n, 1 / n), size=300)).double()
    exact = frechet_from_features(x, reference, counts) - frechet_from_features(y, reference, counts)
    interval = Bootstrap(n).interval(value, pseudo)
    assert (interval.high - interval.low) / 3.92 == pytest.approx(exact.std().item(), rel=0.15)
    shifted = frechet_from_features(x, reference, counts).mean().item() - frechet_from_features(x, reference)
    assert shifted > 0  # repeated images: the reason for pseudo-values


def test_pairing_narrows_a_difference():
    random = np.random.default_rng(0)
    seeds, noise = random.normal(size=256), random.normal(size=(2, 256)) * 0.1
    first, second, bootstrap = seeds + noise[0], seeds + noise[1] + 0.2, Bootstrap(256)
    difference = bootstrap.interval(float((first - second).mean()), first - second)
    alone = bootstrap.interval(float(first.mean()), first)
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    assert difference.low < -0.2 < difference.high < 0


def test_means_have_the_interval_of_the_central_limit_theorem_and_repeat():
    values = np.random.default_rng(5).normal(size=400)
    one = Bootstrap(400).interval(float(values.mean()), values)
    assert (one.high - one.low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 20, rel=0.05)
    assert Bootstrap(400).interval(float(values.mean()), values) == one


@pytest.mark.parametrize("n", [FEWEST, 12, 24])
def test_means_of_few_images_are_held_as_often_as_said(n):
    values = np.random.default_rng(6).normal(size=(4000, n))
    bootstrap = Bootstrap(n)
    intervals = [bootstrap.interval(float(row.mean()), row) for row in values]
    held = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.93 <= held <= 0.965  # without Student's t 0.90 at 8


def test_students_t():
    stats = pytest.importorskip("scipy.stats")
    for level, freedom in ((0.95, 7), (0.95, 30), (0.9, 7), (0.99, 15)):
        tail = (1 + level) / 2
        exact = stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)
        assert student_to_normal(level, freedom) == pytest.approx(exact, rel=1e-3)


def test_too_few_images_and_missing_values_give_no_interval():
    for values in (np.ones(FEWEST - 1), np.array([np.nan] + [1.0] * FEWEST)):
        interval = Bootstrap(len(values)).interval(1.0, values)
        assert np.isnan([interval.low, interval.high]).all()


def difference(guidance, scale, value, low, high):
    entry = {"guidance": guidance, "guidance_scale": scale, "steps": 10, "scheduler": None, "metric": "fid"}
    return entry | {"value": value, "low": low, "high": high}


def test_a_conclusion_is_one_sentence_that_says_what_is_decided():
    entries = [
        difference("apg", 2, 0.1, -0.2, 0.4),
        difference("apg", 8, -1.9, -2.4, -1.5),
        difference("ag", 8, 3, 1, 5),
    ]
    assert conclude(["cfg", "apg", "ag"], ["fid"], entries, 64) == [
        "apg beats cfg at scale 8 by 1.90 FID [1.44, 2.47]; undecided at scale 2 "
        "(intervals that hold at all 2 settings together).",
        "ag loses to cfg at scale 8 by 3.00 FID [1.00, 5.00].",
    ]
    level = [difference("apg", scale, 0.1, -0.2, 0.4) for scale in (2, 4, 8, 15)]
    assert conclude(["cfg", "apg"], ["fid"], level, 64) == ["apg cannot be told from cfg at any setting."]
    unsure = [difference("apg", 8, -1.9, float("nan"), float("nan"))]
    assert conclude(["cfg", "apg"], ["fid"], unsure, 4) == [
        "apg against cfg: 4 images are too few for an interval, so nothing is decided."
    ]
    assert conclude(["cfg", "apg"], ["saturation"], [], 64) == []
    assert conclude(["cfg", "apg"], ["fid"], [], 64) == ["apg shares no setting with cfg."]


def test_of_many_settings_without_an_effect_few_sentences_claim_one():
    """At 6 settings 26 % of them would by the intervals of single ones."""
    draws, claims = np.random.default_rng(0), 0
    for _ in range(400):
        entries = [difference("apg", s, v, v - 1.96, v + 1.96) for s, v in zip(range(6), draws.standard_normal(6))]
        claims += "cannot be told" not in conclude(["cfg", "apg"], ["fid"], entries, 64)[0]
    assert claims / 400 < 0.08


@pytest.mark.parametrize("images", [8, 16, 64])
def test_intervals_of_many_settings_together_are_those_of_student(images):
    from scipy.stats import t

    alone, together = t.ppf(0.975, images - 1), t.ppf(1 - 0.025 / 10, images - 1)
    entries = [difference("apg", scale, 1.0, 1 - alone, 1 + alone) for scale in range(10)]
    for value, said in ((1.01 * together, "beats"), (0.99 * together, "cannot be told")):
        entries[3] = difference("apg", 3, -value, -value - alone, -value + alone)
        assert said in conclude(["cfg", "apg"], ["fid"], entries, images)[0]


def test_conclusions_are_about_what_was_asked_for_and_has_intervals():
    clip = difference("apg", 8, 1.9, 1.5, 2.4) | {"metric": "clip_score"}
    others = [difference("apg", 8, 0.1, None, None) | {"metric": name} for name in ("kid", "precision")]
    counted = difference("apg", 8, 0, 0, 0) | {"metric": "evaluations"}
    entries = [*others, clip, counted]
    assert conclude(["cfg", "apg"], ["kid", "precision", "clip_score", "evaluations"], entries, 2048) == [
        "apg beats cfg at scale 8 by 1.90 CLIPScore [1.50, 2.40]."
    ]
    assert conclude(["cfg", "apg"], ["kid", "saturation", "evaluations"], entries, 2048) == []


@pytest.mark.parametrize("n", [5, 60])
def test_images_that_are_all_alike_have_a_distance(n):
    features, reference = torch.ones(n, 12), world(12)[2]
    value, left_out = leave_one_out(features, FrechetReference(reference.mu, reference.sigma))
    assert value == pytest.approx(12 + reference.sigma.trace().item())
    assert left_out == pytest.approx(torch.full((n,), value).double())
