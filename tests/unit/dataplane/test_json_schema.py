"""JSON values against JSON Schemas."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.dataplane.json_schema import faults


def first(schema: Any, value: Any) -> str:
    return next(faults(schema, value), "")


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, [None, 1, {}], []),
        (False, [], [None, 1]),
        ({}, [None, "x", []], []),
        ({"type": "string"}, ["", "x"], [1, None, True, [], {}]),
        ({"type": "integer"}, [1, 1.0, -5, 10**30], [1.5, True, "1"]),
        ({"type": "number"}, [1, 1.5], [True, "1", None]),
        ({"type": ["string", "null"]}, ["x", None], [1]),
        ({"type": "boolean"}, [True, False], [0, 1, "true"]),
        ({"enum": ["a", 1, None]}, ["a", 1, 1.0, None], ["b", True, 2]),
        ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}, {}]),
        ({"minimum": 1, "exclusiveMaximum": 3}, [1, 2.9, "not a number"], [0.9, 3]),
        ({"maximum": 3, "exclusiveMinimum": 1}, [1.1, 3], [1, 3.1]),
        ({"multipleOf": 0.01}, [1.1, 0.07, 0], [0.005]),
        ({"multipleOf": 3}, [9, 3 * 10**30], [10, 3 * 10**30 + 1]),
        ({"minLength": 1, "maxLength": 2}, ["é", "ab", 5], ["", "abc"]),
        ({"pattern": "^a+$"}, ["aa"], ["b", ""]),
        ({"minItems": 1, "maxItems": 2, "uniqueItems": True}, [[1], [1, "1"]], [[], [1, 2, 3], [1, 1]]),
        ({"items": {"type": "string"}}, [[], ["x"], "no array"], [["x", 1]]),
        ({"prefixItems": [{"type": "string"}], "items": False}, [[], ["x"]], [[1], ["x", 1]]),
        (
            {"required": ["a"], "properties": {"a": {"type": "string"}}},
            [{"a": "x"}, {"a": "x", "b": 1}],
            [{}, {"a": 1}],
        ),
        ({"additionalProperties": {"type": "integer"}}, [{}, {"a": 1}], [{"a": "x"}]),
        ({"properties": {"a": True}, "additionalProperties": False}, [{"a": 1}, {}], [{"b": 1}]),
        ({"minProperties": 1, "maxProperties": 1}, [{"a": 1}], [{}, {"a": 1, "b": 2}]),
        ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, ["x", 3], [2]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, [0, 3], [1.5]),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1], [0, 3]),
        ({"not": {"type": "string"}}, [1], ["x"]),
        ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"type": "string"}}}, ["x"], [1]),
        ({"$ref": "#/$defs/nowhere"}, [], [1]),
        ({"format": "date"}, ["2026-11-27", 1], ["27.11.2026", "2026-02-30"]),
        ({"format": "date-time"}, ["2026-11-27T04:00:00Z"], ["2026-11-27"]),
        ({"format": "uuid"}, ["0198c2de-0000-7000-8000-000000000000"], ["x"]),
        ({"contentEncoding": "base64"}, ["YQ=="], ["a!"]),
        ({"format": "hostname", "unheard-of": 1}, ["x", 1], []),
    ],
)
def test_keywords(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert first(schema, value) == "", value
    for value in bad:
        assert first(schema, value), value


@dataclass
class Item:
    name: Annotated[str, msgspec.Meta(min_length=1)]
    price: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    kind: Literal["book", "toy"] | None = None


@dataclass
class Order:
    items: list[Item]
    parent: "Order | None" = None
    notes: dict[str, str] | None = None


SCHEMA = msgspec.json.schema(Order)


def test_a_schema_made_from_types_takes_what_the_types_take() -> None:
    order = {"items": [{"name": "x", "price": 2, "kind": "toy"}], "parent": {"items": []}, "notes": {"a": "b"}}
    assert first(SCHEMA, order) == ""
    assert isinstance(msgspec.convert(order, Order), Order)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({}, "$.items is required"),
        ({"items": [{"name": ""}]}, "$.items[0].name must have at least 1 characters"),
        ({"items": [{"name": "x", "price": -1}]}, "$.items[0].price must be at least 0"),
        ({"items": "x"}, "$.items must be array, not string"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(order: Any, said: str) -> None:
    assert first(SCHEMA, order) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["items", "name", "price", "x"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_it_agrees_with_msgspec(value: Any) -> None:
    for kind in (Order, list[float], dict[str, float], tuple[bool, str], str | None, date, list[bytes], UUID | None):
        try:
            msgspec.json.decode(json.dumps(value), type=kind)
            taken = True
        except msgspec.ValidationError:
            taken = False
        assert (first(msgspec.json.schema(kind), value) == "") is taken, (kind, value)


def test_a_schema_that_leads_back_to_itself_ends() -> None:
    loop = {"$ref": "#"}
    assert "nested deeper" in first(loop, 1)
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    assert "nested deeper" in first({"items": {"$ref": "#"}}, deep)
