import json

import numpy as np
import pytest
import torch

from diffguide.guidance import (
    AdaptiveGuidance,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeGuidancePlusPlus,
    EnergyPreserving,
    Guidance,
    Interval,
    NormMatching,
    RatioAwareAdaptiveGuidance,
    Renorm,
    Rescale,
    Scheduled,
)

RULES = [
    ClassifierFreeGuidance(3.0, guidance_rescale=0.5),
    AdaptiveProjectedGuidance(8.0, eta=0.5, norm_threshold=2.0),
    RatioAwareAdaptiveGuidance(8.0, alpha=3.0),
    AdaptiveGuidance(6.0, threshold=0.9, space="denoised"),
    ClassifierFreeGuidancePlusPlus(0.6, unit=1.0),
    Rescale(Interval(AdaptiveProjectedGuidance(8.0), 0.1, 0.9), 0.3),
    NormMatching(Scheduled(ClassifierFreeGuidance(4.0), [1.0, 2.0]), dim=1),
    Scheduled(ClassifierFreeGuidance(4.0), "cosine", end=2.0),
    EnergyPreserving(ClassifierFreeGuidance(4.0), (45, 55)),
]


class Capped(Guidance):
    """A rule of a user's own."""

    def __init__(self, guidance_scale=7.5, most=2.0):
        super().__init__(guidance_scale)
        self.most = most


def test_a_rule_of_ones_own_comes_back(tmp_path):
    rule = Rescale(Capped(3.0, most=4.0), 0.5)
    rule.save_pretrained(tmp_path / "rule")
    again = Guidance.from_pretrained(tmp_path / "rule")
    assert type(again.core) is Capped
    assert repr(again) == repr(rule)
    Capped(3.0).save_pretrained(tmp_path / "own")

    class Again(Guidance):
        def __init__(self, guidance_scale=7.5, most=2.0):
            super().__init__(guidance_scale)
            self.most = most

    Again.__name__ = "Capped"
    for cls in (Capped, Again):  # as where its cell of a notebook is run once more
        assert type(cls.from_pretrained(tmp_path / "own")) is cls
    assert type(Guidance.from_pretrained(tmp_path / "own")) is Again


def test_a_rule_of_ones_own_may_have_the_name_of_another(tmp_path):
    class Named(ClassifierFreeGuidance):
        pass

    Named.__name__ = "ClassifierFreeGuidance"
    Named(3.0).save_pretrained(tmp_path)
    assert type(Named.from_pretrained(tmp_path)) is Named
    assert type(Guidance.from_pretrained(tmp_path)) is ClassifierFreeGuidance


def test_options_that_are_not_kept_cannot_be_written(tmp_path):
    class Hidden(Guidance):
        def __init__(self, guidance_scale=7.5, most=2.0, **more):
            super().__init__(guidance_scale)
            self._most = most

    with pytest.raises(ValueError, match="Hidden does not keep its option most"):
        Hidden().save_pretrained(tmp_path / "rule")
    assert not (tmp_path / "rule").exists()
    rule = Hidden()
    rule.most = 2.0
    rule.save_pretrained(tmp_path / "rule")
    assert type(Hidden.from_pretrained(tmp_path / "rule")) is Hidden


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_round_trip(rule, tmp_path):
    rule.save_pretrained(tmp_path / "rule")
    again = Guidance.from_pretrained(tmp_path / "rule")
    assert type(again) is type(rule)
    assert repr(again) == repr(rule)


def test_what_options_of_ones_own_hold_is_written_or_refused(tmp_path):
    numbers = ((np.float32(0.5), 0.5), (np.arange(2), [0, 1]), (torch.tensor([1.5]), [1.5]))
    for value, read in (*numbers, ({"a": 1}, {"a": 1})):
        Capped(most=value).save_pretrained(tmp_path)
        assert Capped.from_pretrained(tmp_path).most == read
    with pytest.raises(ValueError, match="most of Capped is a Path, which cannot be written to a file"):
        Capped(most=type("Path", (), {})()).save_pretrained(tmp_path)


def test_functions_cannot_be_written(tmp_path):
    rule = Scheduled(ClassifierFreeGuidance(4.0), lambda progress: 3.0)
    with pytest.raises(ValueError, match="schedule of Scheduled is a function"):
        rule.save_pretrained(tmp_path / "rule")
    assert not (tmp_path / "rule").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no rule "),
        ("{", "is not JSON"),
        ("[]", "no _class_name"),
        ('{"_class_name": "Step"}', "no rule named 'Step'"),
        ('{"_class_name": "Guidance"}', "no rule named 'Guidance'"),
        ('{"_class_name": "Modifier"}', "no rule named 'Modifier'"),
        ('{"_class_name": "NormMatching"}', "these are no options of NormMatching"),
        (
            '{"_class_name": "Scheduled", "rule": {"_class_name": "AdaptiveGuidance"}, "schedule": 5}',
            "a schedule is a name, a list or a function, not 5",
        ),
        ('{"_class_name": "ClassifierFreeGuidance", "scale": 2}', "no option 'scale'"),
        ('{"_class_name": "ClassifierFreeGuidance", "guidance_scale": "x"}', "finite number"),
        (json.dumps({"_class_name": "ClassifierFreeGuidance", "guidance_scale": 2.0}), "not a AdaptiveGuidance"),
    ],
)
def test_mistakes_are_named(text, message, tmp_path):
    if text is not None:
        (tmp_path / "guidance_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        AdaptiveGuidance.from_pretrained(tmp_path)


def test_a_device_is_not_read(tmp_path):
    (tmp_path / "guidance_config.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is no file"):
        Guidance.from_pretrained(tmp_path)


class Mixed(Guidance):
    """One rule made of two, with numbers of its own under a name that calibrated ones have, too."""

    def __init__(self, first, second, coefficients=(1.0, 2.0)):
        super().__init__(3.0)
        self.first, self.second, self.coefficients = first, second, coefficients


def test_rules_inside_a_rule_of_ones_own_come_back(tmp_path):
    rule = Mixed(ClassifierFreeGuidance(3.0), Rescale(RatioAwareAdaptiveGuidance(4.0)), [0.5, 1.5])
    rule.save_pretrained(tmp_path)
    assert repr(Mixed.from_pretrained(tmp_path)) == repr(rule)


@pytest.mark.parametrize(
    "make",
    [
        lambda rule: Interval(rule, np.float32(0.25), np.float32(0.5)),
        lambda rule: Interval(rule, low=np.float32(0.25), high=np.float64(4)),
        lambda rule: Rescale(rule, np.float32(0.5)),
        lambda rule: EnergyPreserving(rule, (np.int64(45), np.float32(55))),
        lambda rule: Renorm(rule, np.float32(0.5), dim=np.int64(-1)),
        lambda rule: NormMatching(rule, dim=np.int64(1)),
    ],
)
def test_numbers_of_numpy_are_written(make, tmp_path):
    rule = make(ClassifierFreeGuidance(np.float32(4.0)))
    rule.save_pretrained(tmp_path)
    assert repr(Guidance.from_pretrained(tmp_path)) == repr(rule)
