"""Random messages of any type: structured, typed, and mostly nonsense."""

import random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

TEXTS = ["", "a", "counter", "default", "s", "x" * 200, "a/b", "\0", "é\U0001f600", "9:x", "99999999999999999999:x"]
NUMBERS = [0, 1, 2, 3, 5, 127, 1001, 65_536, 2**31 - 1]
WIDE = [*NUMBERS, 2**32, 2**53, 2**63 - 1]


def fill(message: Any, dice: random.Random, depth: int = 0) -> None:
    """Give about half of the fields a value of their type, few of which make sense."""
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if dice.random() < (0.45 if depth < 4 else 1.0):
            continue
        if field.is_repeated:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                _fill_map(getattr(message, field.name), field, dice)
                continue
            for _ in range(dice.randrange(3)):
                if field.message_type is not None:
                    fill(getattr(message, field.name).add(), dice, depth + 1)
                else:
                    getattr(message, field.name).append(_value(field, dice))
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), dice, depth + 1)
        else:
            setattr(message, field.name, _value(field, dice))


def _fill_map(entries: Any, field: FieldDescriptor, dice: random.Random) -> None:
    assert field.message_type is not None, "an entry of a map is a message"
    values = field.message_type.fields_by_name["value"]
    if values.message_type is None:
        for _ in range(dice.randrange(3)):
            entries[dice.choice(TEXTS)] = _value(values, dice)


def _value(field: FieldDescriptor, dice: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return dice.randbytes(dice.randrange(20))
        case FieldDescriptor.CPPTYPE_STRING:
            return dice.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return dice.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return dice.choice([0.0, -1.0, 1e308, float("nan"), float("inf")])
        case FieldDescriptor.CPPTYPE_ENUM:
            return dice.randrange(8)
        case FieldDescriptor.CPPTYPE_UINT64:
            return dice.choice([*WIDE, 2**64 - 1])
        case FieldDescriptor.CPPTYPE_INT64:
            return dice.choice([*WIDE, -1, -(2**63)])
        case FieldDescriptor.CPPTYPE_UINT32:
            return dice.choice([*NUMBERS, 2**32 - 1])
        case _:
            return dice.choice([*NUMBERS, -1, -(2**31)])
