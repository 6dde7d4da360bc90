"""Hydra's grammar -> axes -> overrides, and back."""

import math

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from spaces import space_of

from trainlab.cli import compose
from trainlab.config import words
from trainlab.errors import ConfigError
from trainlab.sweeps.search.space import Interval, Space, as_sweep, ranking

UNIT = st.floats(0, 1)


def read(key: str, text: str):
    """An override's value as Hydra reads it."""
    return OverridesParser.create().parse_override(f"{key}={text}").value()


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("a=3,1,2", ["3", "1", "2"]),
        ("a=choice(x,'y z')", ["x", "y\\ z"]),
        ("a=range(1,8,3)", ["1", "4", "7"]),
        ("a=range(0,1,0.25)", ["0.0", "0.25", "0.5", "0.75"]),
        ("activation=glob(*elu, exclude=[gelu,r*])",
         ["celu", "elu", "leaky_relu", "prelu", "selu"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("a=null,true", ["null", "True"]),
        ("a=[range(1,3),choice(x,y)]", ["[1,x]", "[1,y]", "[2,x]", "[2,y]"]),
        ("a=interval(1,3)", ["1.0", "3.0"]),
        ("a=int(interval(1,3))", ["1", "3"]),
        ("a=tag(log,one_minus,interval(0.9,0.999))", ["0.9", "0.999"]),
        ("a=[tag(log,interval(1e-5,2)),7]", ["[1e-05,7]", "[2.0,7]"]),
        ("a=choice([tag(log,interval(1e-5,2)),7])", ["[1e-05,7]", "[2.0,7]"]),
    ],
)  # fmt: skip
def test_the_grammar(line, texts):
    key = line.partition("=")[0]
    assert space_of("b=1", line, "c=[x]").extremes() == {key: texts}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a=tag(log,interval(0,1))", "> 0"),
        ("a=tag(log,interval(-1,1))", "> 0"),
        ("a=tag(logg,interval(1,2))", "no tag logg"),
        ("a=tag(log,one_minus,interval(0.9,1))", "below 1"),
        ("a=tag(log,one_minus,int(interval(0,1)))", "below 1"),
        ("a=tag(log,range(1,3))", "for intervals"),
        ("a=interval(2,1)", "the lower first"),
        ("a=interval(1,1)", "the lower first"),
        ("a=interval(0,inf)", "finite"),
        ("a=interval(nan,1)", "finite"),
        ("a=shuffle(range(1,3))", "shuffle gives another order"),
        ("a=range(3,1)", "no value"),
        ("a=range(1,3,0)", "step is 0"),
        ("activation=glob(zz*)", "no value"),
        ("a={x:choice(1,2)}", "inside"),
        ("a=[1,{x:interval(1,2)}]", "inside"),
        ("a=[interval(2,1)]", "the lower first"),
        ("a=choice([interval(1,2)],[3])", "one of several"),
        ("a=[interval(1,2)],[3]", "one of several"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_line(line, told):
    with pytest.raises(ConfigError, match=told) as caught:
        space_of(line)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(line.partition("=")[0] + " = ")


@pytest.mark.parametrize(
    "line", ["a=[tag(log,interval(1e-5,2)),7]", "a=interval(0,1)", "a=1,2", "a=[1,2]", "a=3"]
)
def test_hydra_takes_every_sweep_for_one(line):
    override = OverridesParser.create().parse_override(line)
    again = OverridesParser.create().parse_override(as_sweep(override))
    assert again.is_sweep_override() == (line not in ("a=3", "a=[1,2]"))
    assert Space.of([again]) == Space.of([override])


@st.composite
def intervals(draw):
    kind = draw(st.sampled_from(["linear", "log", "one_minus", "whole", "whole log"]))
    if "whole" in kind:
        low = draw(st.integers(1, 1000))
        return Interval("a", low, low + draw(st.integers(1, 10**6)), "log" in kind, whole=True)
    if kind == "one_minus":
        high = 1 - 10 ** -draw(st.floats(0.5, 6))
        return Interval("a", draw(st.floats(0, high - 1e-6)), high, True, True)
    low = draw(st.floats(1e-12, 1e6)) if kind == "log" else draw(st.floats(-1e6, 1e6))
    width = max(1e-3 * abs(low), draw(st.floats(1e-9, 1e6)))
    return Interval("a", low, low + width, kind == "log")


@given(intervals(), UNIT)
def test_a_number_stays_inside_and_reads_back(axis, u):
    text = axis.text(u)
    value = read("a", text)
    assert axis.low <= value <= axis.high
    assert type(value) is (int if axis.whole else float)
    assert str(value) == text
    assert axis.text(axis.place(text)) == text
    begin, end = axis._line()
    step = 1e-3 / abs(end - begin) if axis.log else 2e-4  # 4 digits of a number, or of the axis
    assert axis.whole or abs(axis.place(text) - u) <= step + 1e-9


@given(intervals(), UNIT, UNIT)
def test_text_rises_with_the_place(axis, u, v):
    low, high = sorted([u, v])
    assert float(axis.text(low)) <= float(axis.text(high))


def test_one_minus_and_log_are_uniform_on_their_axes():
    draws = [(i + 0.5) / 5000 for i in range(5000)]
    lr = space_of("a=tag(log,interval(1e-4,1))")
    logs = [math.log10(float(lr.at([u])["a"])) for u in draws]
    assert stats.kstest(logs, stats.uniform(-4, 4).cdf).pvalue > 0.99
    beta = space_of("a=tag(log,one_minus,interval(0.9,0.999))")
    logs = [math.log10(1 - float(beta.at([u])["a"])) for u in draws]
    assert stats.kstest(logs, stats.uniform(-3, 2).cdf).pvalue > 0.99
    whole = space_of("a=int(interval(3,7))")
    counts = [sum(whole.at([u])["a"] == str(k) for u in draws) for k in range(3, 8)]
    assert counts == [1000] * 5


def test_the_size_of_a_space():
    assert space_of("a=1,2,3", "b=int(interval(1,4))").size == 12
    assert space_of("a=1,2", "b=interval(1,4)").size == math.inf
    assert space_of("a=1").size == 1
    many = space_of(*(f"a{i}=int(interval(1,1000))" for i in range(12)))
    assert many.size == 1000**12


def test_distinct_settings_end_with_the_space():
    space = space_of("a=1,2", "b=x,y")
    again = iter([[0.1, 0.1], [0.2, 0.2], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]] * 9)
    seen = {("1", "x")}
    assert len(space.distinct(again, 2, seen)) == 2
    assert len(space.distinct(again, 9, seen)) == 1
    same = iter([[0.1, 0.1]] * 5000)
    assert space.distinct(same, 9, {("1", "x")}) == []
    assert len(list(same)) > 3900


@given(st.lists(st.none() | st.floats(allow_nan=True)))
def test_ranking_leaves_out_what_failed(scores):
    places = ranking(scores)
    good = [s for s in scores if s is not None and math.isfinite(s)]
    assert [scores[i] for i in places] == sorted(good)


@pytest.mark.parametrize("word", words.groups()["search"])
def test_every_space_of_conf_search_is_allowed_everywhere(word):
    path = words.conf() / "search" / f"{word}.yaml"
    assert path.read_text().startswith("# ")
    lines = yaml.safe_load(path.read_text())
    with compose.hydra_session() as hydra:
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        space = Space.of(parser.parse_overrides([f"{k}={v}" for k, v in lines.items()]))
        bounds = space.extremes()
        assert bounds
        fixed = {k: v for k, v in lines.items() if k not in bounds}
        for i in range(max(map(len, bounds.values()))):
            own = {k: texts[min(i, len(texts) - 1)] for k, texts in bounds.items()} | fixed
            compose.check(hydra, [f"{k}={v}" for k, v in own.items()])
