import json

import pytest
import torch
from cases import step

from diffguide.guidance import (
    ClassifierFreeGuidance,
    Interval,
    LinearAdaptiveGuidance,
    Rescale,
    Scheduled,
    Step,
    Trajectories,
)
from diffguide.guidance.coefficients import schedule

STEPS = 8


def trajectory(seed: int, samples: int = 3, noise: float = 0.0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Predictions of which the unconditional ones follow from earlier ones, up to `noise`."""
    generator = torch.Generator().manual_seed(seed)
    cond = [torch.randn(samples, 4, 8, 8, generator=generator) for _ in range(STEPS)]
    uncond = [0.5 * cond[0] + 0.4 * torch.randn(samples, 4, 8, 8, generator=generator)]
    for index in range(1, STEPS):
        error = noise * torch.randn(samples, 4, 8, 8, generator=generator)
        uncond.append(0.3 * cond[index] - 0.2 * cond[index - 1] + 0.7 * uncond[-1] + error)
    return cond, uncond


def at(index: int, state: dict, **changes) -> Step:
    here = step("epsilon", index, state)
    here.total, here.model, here.scheduler = STEPS, "toy", "Solver"
    for name, value in changes.items():
        setattr(here, name, value)
    return here


def fitted(noise: float = 0.0) -> LinearAdaptiveGuidance:
    trajectories = Trajectories(STEPS)
    for seed in range(6):
        trajectories.add(*trajectory(seed, noise=noise))
    return LinearAdaptiveGuidance.fit(trajectories, 5.0, at(0, {}))


def test_paper_has_25_evaluations_at_20_steps():
    assert sum(1 + evaluated for evaluated in schedule(20)) == 25
    assert schedule(20)[:10] == [True, False] * 5
    assert not any(schedule(20)[10:])


def test_what_is_linear_is_estimated_exactly_on_trajectories_it_has_not_seen():
    rule, state = fitted(), {}
    cond, uncond = trajectory(99)
    evaluated = []
    for index in range(STEPS):
        here = at(index, state)
        evaluated.append(rule.needs_uncond(here))
        if evaluated[-1]:
            guided, _ = rule.guide(cond[index], uncond[index], cond[index], here)
        else:
            guided = rule.guide_cond(cond[index], cond[index], here)
            assert here.decision == "estimated"
            assert torch.isfinite(here.measured.numbers()["gd"]).all()
        expected = uncond[index] + 5.0 * (cond[index] - uncond[index])
        assert torch.allclose(guided, expected, atol=2e-3)
    assert evaluated == schedule(STEPS)
    assert rule.coefficients.evaluations == STEPS + sum(evaluated)


def test_fit_is_ordinary_least_squares():
    rule = fitted(noise=0.3)
    runs = [trajectory(seed, noise=0.3) for seed in range(6)]
    for index, row in enumerate(rule.coefficients.rows):
        if not row:
            continue
        columns = []
        for cond, uncond in runs:
            used = [*cond[: index + 1], *(uncond[j] for j in range(index) if schedule(STEPS)[j])]
            columns.append(torch.stack([x.flatten() for x in used], 1).double())
        target = torch.cat([uncond[index].flatten() for _, uncond in runs]).double()
        solution = torch.linalg.lstsq(torch.cat(columns), target[:, None]).solution[:, 0]
        assert torch.allclose(torch.tensor([*row[0], *row[1]], dtype=torch.float64), solution, atol=1e-6)
        difference = target - torch.cat([cond[index].flatten() for cond, _ in runs]).double()
        residual = torch.cat(columns) @ solution - target
        assert rule.coefficients.errors[index] == pytest.approx(float(residual.norm() / difference.norm()), rel=1e-4)


def test_predictions_that_are_equal_leave_no_error_and_a_file_that_is_json(tmp_path):
    trajectories, (cond, _) = Trajectories(STEPS), trajectory(0)
    trajectories.add(cond, cond)
    coefficients = LinearAdaptiveGuidance.fit(trajectories, 5.0, at(0, {})).coefficients
    coefficients.save(tmp_path / "equal.json")
    assert coefficients.errors == (0.0,) * STEPS
    assert "Infinity" not in (tmp_path / "equal.json").read_text()


def test_batch_of_n_is_n_batches_of_one():
    together, apart = Trajectories(STEPS), Trajectories(STEPS)
    cond, uncond = trajectory(0)
    together.add(cond, uncond)
    for k in range(3):
        apart.add([x[k : k + 1] for x in cond], [x[k : k + 1] for x in uncond])
    assert torch.allclose(together.gram, apart.gram)
    assert together.samples == apart.samples == 3


def test_file_round_trip(tmp_path):
    rule = fitted()
    rule.coefficients.save(tmp_path / "c.json")
    again = LinearAdaptiveGuidance(5.0, tmp_path / "c.json")
    assert again.coefficients == rule.coefficients
    rule.save_pretrained(tmp_path / "rule")
    assert LinearAdaptiveGuidance.from_pretrained(tmp_path / "rule").coefficients == rule.coefficients


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "fitted for model 'toy', not 'other'"),
        ({"scheduler": "Other"}, "fitted for scheduler 'Solver', not 'Other'"),
        ({"total": 9}, "fitted for steps 8, not 9"),
        ({"prediction": "flow"}, "fitted for prediction 'epsilon', not 'flow'"),
    ],
)
def test_refuses_what_it_was_not_fitted_for(change, message):
    with pytest.raises(ValueError, match=message):
        fitted().needs_uncond(at(0, {}, **change))


def test_refuses_other_noise_levels_than_it_was_fitted_at(tmp_path):
    trajectories = Trajectories(STEPS, tuple(float(8 - index) for index in range(STEPS)))
    trajectories.add(*trajectory(0))
    LinearAdaptiveGuidance.fit(trajectories, 5.0, at(0, {})).coefficients.save(tmp_path / "c.json")
    rule, state = LinearAdaptiveGuidance(5.0, tmp_path / "c.json"), {}
    for index in range(STEPS):
        level = (8 - index) * 1.005
        assert rule.needs_uncond(at(index, state, sigma=level)) == schedule(STEPS)[index]
        assert rule.needs_uncond(at(index, state, sigma=None)) == schedule(STEPS)[index]
        with pytest.raises(ValueError, match=f"level {8 - index} at step {index + 1}, not {level * 1.02:.4g}, which"):
            rule.needs_uncond(at(index, state, sigma=level * 1.02))
    assert fitted().needs_uncond(at(0, {}, sigma=3.0))  # what was fitted before levels were written down


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "{", "not JSON"),
        (lambda text: "[]", "not a file of coefficients"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 1"),
        (lambda text: json.dumps(json.loads(text) | {"rows": [[]]}), "as many rows"),
        (lambda text: json.dumps(json.loads(text) | {"rows": [[], [[1.0], [2.0]]]}), "step 1 has 1 and 1"),
        (lambda text: json.dumps(json.loads(text) | {"levels": [1.0]}), "1 noise levels for 8 steps"),
        (lambda text: json.dumps(json.loads(text) | {"more": 1}), "damaged"),
        (lambda text: json.dumps(json.loads(text) | {"rows": [[], [[1.0, float("nan")], [2.0]]]}), "not nan"),
    ],
)
def test_damaged_files_are_named(tmp_path, spoil, message):
    path = tmp_path / "c.json"
    fitted().coefficients.save(path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match=message):
        LinearAdaptiveGuidance(5.0, path)


def test_needs_coefficients_and_every_step():
    with pytest.raises(ValueError, match="calibrate linear-ag"):
        LinearAdaptiveGuidance(5.0)
    for modifier in (Interval, Scheduled):
        with pytest.raises(ValueError, match=f"goes on from every step, and {modifier.__name__} can leave some out"):
            modifier(fitted())
    assert Rescale(fitted()).needs_uncond(at(0, {}))
    with pytest.raises(ValueError, match="no trajectory"):
        LinearAdaptiveGuidance.fit(Trajectories(4), 5.0, at(0, {}))


def test_scale_one_is_conditional():
    rule = LinearAdaptiveGuidance(1.0, fitted().coefficients)
    cond, _ = trajectory(0)
    assert not rule.needs_uncond(at(0, {}))
    assert rule.guide_cond(cond[0], cond[0], at(0, {})) is cond[0]
    assert ClassifierFreeGuidance(1.0).guide_cond(cond[0], cond[0], at(0, {})) is cond[0]


def test_what_is_remembered_outlives_the_memory_of_a_prediction():
    """A denoiser that runs as a CUDA graph writes all its predictions to the same place."""
    rule, (cond, uncond) = fitted(), trajectory(7)
    found = []
    for static in (False, True):
        state, memory = {}, (torch.empty_like(cond[0]), torch.empty_like(cond[0]))
        for index in range(STEPS):
            here, pair = at(index, state), (cond[index], uncond[index])
            c, u = (place.copy_(each) for place, each in zip(memory, pair)) if static else pair
            evaluated = rule.needs_uncond(here)
            found.append(rule.guide(c, u, c, here)[0] if evaluated else rule.guide_cond(c, c, here))
    for ours, expected in zip(found[STEPS:], found[:STEPS]):
        assert torch.equal(ours, expected)
