"""Arguments fit the schema that they are made for."""

from typing import Any

import pytest

from troupe.llm_sim.arguments import fill, string_property


@pytest.mark.parametrize(
    ("schema", "filled"),
    [
        (None, {}),
        ({"type": "object", "properties": {"text": {"type": "string"}}}, {}),
        ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": "7 days, 2.5 stars"}),
        (
            {"properties": {"n": {"type": "integer"}, "x": {"type": "number"}}, "required": ["n", "x"]},
            {"n": 7, "x": 2.5},
        ),
        ({"properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]}, {"n": 7}),
        ({"properties": {"u": {"enum": ["C", "F"]}}, "required": ["u"]}, {"u": "C"}),
        ({"properties": {"u": {"type": "string", "default": "d"}}, "required": ["u"]}, {"u": "d"}),
        ({"properties": {"u": {"const": 3}}, "required": ["u"]}, {"u": 3}),
        ({"properties": {"b": {"type": "boolean"}}, "required": ["b"]}, {"b": True}),
        ({"properties": {"b": {"type": ["null", "boolean"]}}, "required": ["b"]}, {"b": True}),
        ({"properties": {"b": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}}, "required": ["b"]}, {"b": True}),
        ({"properties": {"z": {"type": "null"}}, "required": ["z"]}, {"z": None}),
        (
            {"properties": {"l": {"type": "array", "minItems": 2, "items": {"type": "boolean"}}}, "required": ["l"]},
            {"l": [True, True]},
        ),
        (
            {
                "properties": {"o": {"$ref": "#/$defs/O"}},
                "required": ["o"],
                "$defs": {"O": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}},
            },
            {"o": {"b": True}},
        ),
    ],
)
def test_required_properties_are_filled_by_their_schema(schema: dict[str, Any] | None, filled: dict[str, Any]) -> None:
    assert fill(schema, "7 days, 2.5 stars") == filled


def test_a_schema_that_holds_itself_comes_to_an_end() -> None:
    schema = {"properties": {"me": {"$ref": "#"}}, "required": ["me"], "type": "object"}

    assert "me" in fill(schema, "")


@pytest.mark.parametrize("schema", [{"required": 3}, {"properties": []}, {"properties": {"a": 1}, "required": ["a"]}])
def test_a_schema_that_is_none_does_no_harm(schema: dict[str, Any]) -> None:
    assert isinstance(fill(schema, "words"), dict)


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (None, None),
        ({"properties": {"n": {"type": "integer"}}}, None),
        ({"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}, "a"),
        ({"properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["b"]}, "b"),
        ({"properties": {"n": {"type": "number"}, "b": {"type": "string"}}, "required": ["n", "b"]}, "b"),
    ],
)
def test_the_string_of_a_tool_is_its_first_required_one(schema: dict[str, Any] | None, name: str | None) -> None:
    assert string_property(schema) == name
