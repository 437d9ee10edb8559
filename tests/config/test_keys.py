"""What stands at the keys of every schema: a meaning, and a range for every number."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from s2l_nemo.config.checks import check_ranges
from s2l_nemo.config.diversity import DiversityConfig
from s2l_nemo.config.evaluation import EvaluateConfig
from s2l_nemo.config.keys import all_keys, mapping_of, nearest_key, sections
from s2l_nemo.config.load import load_values
from s2l_nemo.config.probe import ProbeConfig
from s2l_nemo.config.reproduction import ReproduceConfig
from s2l_nemo.config.schema import Config
from s2l_nemo.config.store import ImportConfig, SampleConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, SHARE, key
from s2l_nemo.planner.cost import PlanOptions
from s2l_nemo.planner.simulation.options import SimulateOptions

SCHEMAS = [
    Config,
    EvaluateConfig,
    DiversityConfig,
    PlanOptions,
    SimulateOptions,
    SampleConfig,
    ImportConfig,
    ProbeConfig,
    ReproduceConfig,
]
# Any integer seeds these data sets; `algorithm.schedule` checks alpha, and t_mix together with the steps.
WITHOUT_RANGE = {
    "data.arithmetic.seed", "data.reasoning_gym.seed", "algorithm.schedule.alpha", "algorithm.schedule.t_mix",
}  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_key_says_what_it_means(schema: type) -> None:
    for name, known in all_keys(schema).items():
        words = known.facts.help.split()
        assert len(words) >= 2, name
        assert known.facts.help == " ".join(words), name


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_number_has_a_range(schema: type) -> None:
    numbers = {name for name, known in all_keys(schema).items() if known.type in (int, float, int | None, float | None)}
    ranged = {name for name, known in all_keys(schema).items() if known.facts.range is not None}
    assert numbers - ranged == WITHOUT_RANGE & numbers
    assert schema is not Config or numbers >= WITHOUT_RANGE


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_default_is_in_its_range(schema: type) -> None:
    check_ranges(load_values([], schema, ""), schema)


@dataclass
class Inner:
    share: float | None = key(None, "a share", SHARE)
    free: dict[str, int] = key(dict, "anything")


@dataclass
class Outer:
    count: int = key(3, "how many", COUNT)
    inner: Inner = field(default_factory=Inner)
    names: list[str] = key(lambda: ["a", "b"], "who")


def test_keys_are_named_by_their_sections() -> None:
    keys = all_keys(Outer)
    assert list(keys) == ["count", "inner.share", "inner.free", "names"]
    assert sections(Outer) == {"inner"}
    assert [known.default_text() for known in keys.values()] == ["3", "null", "{}", "[a,b]"]
    assert [known.expected() for known in keys.values()] == [
        "integer", "number or null", "mapping", "list of text, [a,b]",
    ]  # fmt: skip
    assert [known.facts.help for known in keys.values()] == ["how many", "a share", "anything", "who"]
    assert mapping_of("inner.free.x", Outer) == keys["inner.free"]
    assert mapping_of("inner.share", Outer) is None
    assert nearest_key("inner.shore", Outer) == "inner.share"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count=-1", "inner.share=2"], "count=-1: must be at least 0"),
        (["inner.share=2"], "inner.share=2.0: must be greater than 0 and at most 1"),
    ],
)
def test_the_first_value_out_of_range_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_ranges(load_values(arguments, Outer, ""), Outer)
    assert str(caught.value) == message


def test_null_is_in_every_range() -> None:
    check_ranges(load_values(["inner.share=null", "inner.free.x=-3"], Outer, ""), Outer)
