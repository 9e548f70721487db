import pytest

from diffguide.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    Guidance,
    Interval,
    Rescale,
    as_reward,
)
from diffguide.pipelines import rules
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.rules import (
    guidance_spec,
    modifier_values,
    option_values,
    parse_guidance,
    rule_name,
)
from diffguide.pipelines.spelling import check_guidance, format_guidance, split_guidance, split_parts, tidy_guidance


def test_a_name_alone_is_the_class_with_its_defaults_at_the_given_scale():
    rule = parse_guidance("apg", guidance_scale=10.0)
    assert type(rule) is AdaptiveProjectedGuidance
    assert vars(rule) == vars(AdaptiveProjectedGuidance(guidance_scale=10.0))


def test_without_a_scale_the_default_of_the_class_counts():
    assert parse_guidance("cfg").guidance_scale == ClassifierFreeGuidance().guidance_scale


def test_options_arrive_with_their_values():
    rule = parse_guidance(" apg : eta = 0.25 , momentum=-7.5e-1,norm_threshold=2 ", guidance_scale=4.0)
    assert (rule.eta, rule.momentum, rule.norm_threshold, rule.guidance_scale) == (0.25, -0.75, 2.0, 4.0)


def test_none_is_a_value_where_the_option_may_be_none():
    assert parse_guidance("apg:norm_threshold=none").norm_threshold is None
    with pytest.raises(UserError, match=r"'eta'.*finite number up to 1e30, not 'none'"):
        parse_guidance("apg:eta=none")


@pytest.mark.parametrize("name", ["native", "none"])
def test_the_pipelines_own_guidance_is_no_rule(name):
    assert parse_guidance(name, guidance_scale=3.0) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("aapg", r"unknown guidance rule 'aapg': did you mean 'apg'\?"),
        ("APG", r"did you mean 'apg'\?"),
        ("", "unknown guidance rule ''"),
        ("native:eta=1", "unknown|takes no"),
        ("apg:etta=0", r"unknown option of rule 'apg' 'etta': did you mean 'eta'\?"),
        ("apg:eta", "'eta' of rule 'apg' is not of the form name=value"),
        ("apg:eta=", "not of the form"),
        ("apg:eta=0,", "not of the form"),
        ("apg:eta=0,eta=1", "given twice"),
        ("apg:eta=nan", "finite number up to 1e30, not 'nan'"),
        ("apg:eta=inf", "finite number up to 1e30, not 'inf'"),
        ("apg:momentum=1", r"rule 'apg': momentum must be inside"),
        ("cfg:guidance_rescale=2", r"rule 'cfg': guidance_rescale must be between 0 and 1"),
        ("apg:guidance_scale=3", "--guidance-scale"),
        ("apg+resclae", r"unknown modifier of a rule 'resclae': did you mean 'rescale'\?"),
        ("interval:stop=0.8", "'interval' goes around a rule: write it after one, such as cfg.interval:stop=0.8"),
        ("native+interval", "'interval' goes around a rule, not around the pipeline's own"),
        ("apg+cfg", "'apg' and 'cfg' are both rules"),
        ("apg+interval+rescale+interval:stop=0.5", "'interval' is given twice"),
        ("apg+interval:stp=0.5", r"unknown option of rule 'interval' 'stp': did you mean 'stop'\?"),
        ("apg+interval:stop=2", "rule 'interval': a part of sampling needs"),
        ("cfg:guidance_rescale=0.5+rescale", "rule 'rescale': .* is rescaled already"),
        ("cfg+scheduled:schedule=sine", "must be linear or cosine, not 'sine'"),
        ("cfg+energy:percentiles=45", "two numbers such as 45/55 or none, not '45'"),
        ("cfg+reward:strength=1", "'reward' needs its option 'reward': reward:reward="),
        ("reward", "'reward' needs its option 'reward'"),
        ("cfg+reward:reward=clpi", r"unknown reward 'clpi': did you mean 'clip'\?"),
        ("reward:reward=clip,kl=0.1,js=0.1", "rule 'reward': .*"),
        ("reward:reward=test_rules:without_gradient", "rule 'reward': reward .* has no gradient to follow"),
    ],
)
def test_mistakes_are_named_in_one_line(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_guidance(spec, guidance_scale=5.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rule",
    [
        ClassifierFreeGuidance(3.0),
        ClassifierFreeGuidance(3.0, guidance_rescale=0.7),
        AdaptiveProjectedGuidance(3.0, eta=1 / 3, norm_threshold=1e-5, momentum=-0.123456789),
    ],
)
def test_the_spelling_of_a_rule_reads_back_as_the_same_rule(rule):
    for spec in (guidance_spec(rule), format_guidance(rule_name(rule), option_values(rule))):
        assert vars(parse_guidance(spec, rule.guidance_scale)) == vars(rule)


def test_the_canonical_spelling_has_what_differs_from_the_defaults():
    assert guidance_spec(AdaptiveProjectedGuidance(5.0)) == "apg"
    assert guidance_spec(AdaptiveProjectedGuidance(5.0, momentum=0)) == "apg:momentum=0"
    assert guidance_spec(None) == "native"


def test_a_row_in_the_table_is_all_that_a_new_rule_takes(monkeypatch):
    class Windowed(Guidance):
        def __init__(self, guidance_scale: float = 2.0, *, steps: int, flip: bool = False, mode: str = "a"):
            super().__init__(guidance_scale)
            self.steps, self.flip, self.mode = steps, flip, mode

    monkeypatch.setattr("diffguide.guidance.Windowed", Windowed, raising=False)
    monkeypatch.setitem(rules.RULES, "windowed", rules.Rule("Windowed", "0000.00000", "a test"))
    rule = parse_guidance("windowed:steps=3,flip=true", 4.0)
    assert (rule.steps, rule.flip, rule.mode, rule.guidance_scale) == (3, True, "a", 4.0)
    assert guidance_spec(rule) == "windowed:steps=3,flip=true"
    for spec, message in [
        ("windowed", "needs its option 'steps'"),
        ("windowed:steps=1.5", "a whole number"),
        ("windowed:steps=1,flip=maybe", "true or false"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_guidance(spec)


def test_a_rule_outside_the_table_goes_by_the_name_of_its_class():
    class Mine(Guidance):
        pass

    assert (rule_name(Mine(2.0)), option_values(Mine(2.0)), guidance_spec(Mine(2.0))) == ("Mine", {}, "Mine")


def test_names_are_checked_without_their_classes(monkeypatch):
    monkeypatch.setattr(rules.Rule, "load", lambda self: pytest.fail("loaded"))
    assert split_guidance("apg:eta=0") == ("apg", {"eta": "0"})
    parts = split_parts("beta:a=1e+2,b=1+interval: stop = 0.8+reward:reward=some/c++v.2")
    assert parts == [
        ("beta", {"a": "1e+2", "b": "1"}),
        ("interval", {"stop": "0.8"}),
        ("reward", {"reward": "some/c++v.2"}),
    ]
    assert tidy_guidance(" none ") == "native"
    assert tidy_guidance(" apg : eta=0 + rescale ") == "apg:eta=0+rescale"
    with pytest.raises(UserError, match="unknown reward"):
        check_guidance("cfg+reward:reward=clpi")


def mean_colour(images):
    return images.mean((1, 2, 3))


without_gradient = as_reward(mean_colour, differentiable=False)


@pytest.mark.parametrize(
    "spec",
    [
        "apg:eta=0.5+interval:stop=0.8",
        "cfg+scheduled:schedule=cosine,end=2+rescale:phi=0.5+norm-matching:dim=1",
        "tcfg+renorm:limit=2,dim=none+energy:percentiles=45/55",
        "cfg+thresholding:percentile=0.9+reflecting-wall",
        "reward:reward=clip,strength=0.2,kl=0.1",
        "apg+reward:reward=test_rules:mean_colour,weight=noise+interval:start=0.25",
    ],
)
def test_what_goes_around_a_rule_reads_back(spec):
    rule = parse_guidance(spec, 3.0)
    everything = format_guidance(rule_name(rule), option_values(rule), modifier_values(rule))
    for again in (guidance_spec(rule), everything):
        assert guidance_spec(parse_guidance(again, 3.0)) == guidance_spec(rule)
        assert repr(parse_guidance(again, 3.0)) == repr(rule)
    plain = {"str", "int", "float", "bool", "NoneType"}
    values = [value for options in modifier_values(rule).values() for value in options.values()]
    assert {type(value).__name__ for value in values} <= plain


def test_modifiers_go_around_in_the_order_written():
    rule = parse_guidance("apg:eta=0.5+rescale:phi=0.25+interval:stop=0.5", 3.0)
    assert (type(rule), type(rule.rule), type(rule.core)) == (Interval, Rescale, AdaptiveProjectedGuidance)
    assert (rule.stop, rule.rule.phi, rule.core.eta, rule.guidance_scale) == (0.5, 0.25, 0.5, 3.0)
    alone = parse_guidance("reward:reward=test_rules:mean_colour,strength=0.3", 7.0)
    assert (alone.acts_alone, alone.strength, rule_name(alone), modifier_values(alone)) == (True, 0.3, "reward", {})
