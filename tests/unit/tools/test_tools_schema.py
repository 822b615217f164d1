"""What `@tool` makes of a function."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from troupe.dataplane.tools.schema import InvalidArguments
from troupe.dataplane.tools.tool import DEFAULT_TIMEOUT, Tool, tool


@dataclass
class Place:
    """Where something is."""

    city: str
    country: str = "PT"


class Unit(Enum):
    CELSIUS = "c"
    KELVIN = "k"


@tool(idempotent=True, timeout=5)
async def weather(
    place: Place,
    days: Annotated[int, Meta(ge=1, le=10)] = 1,
    *,
    unit: Unit = Unit.CELSIUS,
    detail: Literal["low", "high"] | None = None,
) -> str:
    """The weather at a place.

    From the national service.

    Args:
        place: where, a city
            with its country
        days (int): how many: at most ten
    """
    return f"{place.city} {place.country} {days} {unit.value} {detail}"


def schema(marked: Tool) -> dict[str, Any]:
    return msgspec.json.decode(marked.parameters.schema, type=dict[str, Any])


def test_a_function_tells_a_model_all_that_it_needs() -> None:
    assert (weather.name, weather.idempotent, weather.timeout, weather.threaded) == ("weather", True, 5, False)
    assert weather.description == "The weather at a place.\n\nFrom the national service."
    assert schema(weather) == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "where, a city with its country"},
            "days": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10,
                "description": "how many: at most ten",
                "default": 1,
            },
            "unit": {"$ref": "#/$defs/Unit", "default": "c"},
            "detail": {"anyOf": [{"enum": ["high", "low"]}, {"type": "null"}], "default": None},
        },
        "required": ["place"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "title": "Place",
                "description": "Where something is.",
                "type": "object",
                "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "PT"}},
                "required": ["city"],
            },
            "Unit": {"title": "Unit", "enum": ["c", "k"]},
        },
    }


def test_a_description_at_the_type_goes_before_the_docstrings() -> None:
    @tool
    def look(what: Annotated[str, Meta(description="from the type")]) -> str:
        """Looks.

        Args:
            what: from the docstring
        """
        return what

    assert schema(look)["properties"]["what"]["description"] == "from the type"


def test_options_go_before_what_the_function_says() -> None:
    @tool(name="see", description="Sees.")
    def look() -> str:
        return "seen"

    assert (look.name, look.description, look.idempotent, look.timeout) == ("see", "Sees.", False, None)
    assert look.seconds == DEFAULT_TIMEOUT
    assert look.threaded


async def test_a_tool_can_still_be_called() -> None:
    assert await weather(Place("Faro"), 2) == "Faro PT 2 c None"


def test_arguments_become_the_types_that_the_function_wants() -> None:
    arguments = weather.parameters.parse('{"place": {"city": "Faro"}, "days": 2, "unit": "k"}')
    assert arguments == {"place": Place("Faro"), "days": 2, "unit": Unit.KELVIN}


@pytest.mark.parametrize("nothing", ["", " \n", "{}", " {} "])
def test_no_text_means_no_arguments(nothing: str) -> None:
    @tool
    def now() -> str:
        """The time."""
        return ""

    assert now.parameters.parse(nothing) == {}
    assert schema(now) == {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{}", "Object missing required field `place`; the arguments must match {"),
        ('{"place": {"city": 5}}', r"Expected `str`, got `int` - at `\$.place.city`"),
        ('{"place": {"city": "Faro"}, "days": "2"}', r"Expected `int`, got `str` - at `\$.days`"),
        ('{"place": {"city": "Faro"}, "days": 11}', r"Expected `int` <= 10 - at `\$.days`"),
        ('{"place": {"city": "Faro"}, "dates": 1}', "Object contains unknown field `dates`"),
        ("[]", "Expected `object`, got `array`"),
        ("{", "the arguments are not a JSON object: "),
        ("place=Faro", "the arguments are not a JSON object: "),
        ('{"place": {"city": "\udc80"}}', "the arguments are not a JSON object: "),
        ('{"x":' * 10_000, "the arguments are not a JSON object: |unknown field"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(arguments: str, why: str) -> None:
    with pytest.raises(InvalidArguments, match=why):
        weather.parameters.parse(arguments)


@given(st.text())
def test_any_text_fits_or_is_explained(arguments: str) -> None:
    with suppress(InvalidArguments):
        weather.parameters.parse(arguments)


whole = st.integers(-(10**30), 10**30)


@given(st.fixed_dictionaries({"a": whole, "b": st.lists(st.text(max_size=5))}, optional={"c": st.booleans()}))
def test_what_fits_arrives_as_it_was_sent(arguments: dict[str, Any]) -> None:
    @tool
    def take(a: int, b: list[str], c: bool = True) -> None:
        """Takes."""

    text = msgspec.json.encode(arguments).decode(errors="strict")
    assert take.parameters.parse(text) == arguments


def no_hint(what) -> str:  # type: ignore[no-untyped-def]
    """Looks."""
    return str(what)


def no_json_form(what: complex) -> str:
    """Looks."""
    return str(what)


def a_function(what: Callable[[], int]) -> str:
    """Looks."""
    return str(what)


def many(*what: str) -> str:
    """Looks."""
    return str(what)


def anything(**what: str) -> str:
    """Looks."""
    return str(what)


def by_position(what: str, /) -> str:
    """Looks."""
    return what


def ambiguous(what: Place | dict[str, int]) -> str:
    """Looks."""
    return str(what)


def undefined(what: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Looks."""
    return str(what)


def undocumented(what: str) -> str:
    return what


def generator() -> Iterator[int]:
    """Looks."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """Looks."""
    yield 1


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (no_hint, "tool no_hint: parameter what has no type hint"),
        (no_json_form, "tool no_json_form: parameter what: <class 'complex'> has no JSON form"),
        (a_function, "tool a_function: parameter what: .* has no JSON form"),
        (many, "tool many: parameter what must be callable by name, not variadic positional"),
        (anything, "tool anything: parameter what must be callable by name, not variadic keyword"),
        (by_position, "tool by_position: parameter what must be callable by name, not positional-only"),
        (ambiguous, "tool ambiguous: Type unions may not contain more than one dict-like type"),
        (undefined, "tool undefined: its type hints cannot be read: name 'Nowhere' is not defined"),
        (undocumented, "tool undocumented needs a docstring"),
        (generator, "marks a function that returns a value"),
        (async_generator, "marks a function that returns a value"),
        (Place, "marks a function that returns a value"),
        (functools.partial(no_json_form), "marks a function that returns a value"),
    ],
)
def test_what_no_model_could_call_is_refused_at_import(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        tool(function)


@pytest.mark.parametrize(
    "options", [{"name": "a b"}, {"name": ""}, {"name": "x" * 65}, {"timeout": 0}, {"timeout": -1}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="tool "):
        tool(**options)(weather.function)
