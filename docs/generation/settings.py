"""The page of settings, from the settings classes."""

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from generation.markdown import code, table
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import SecretStr, Settings
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.dataplane.settings import DataPlaneSettings
from troupe.llm_sim.settings import LlmSimSettings

SERVICES: tuple[type[Settings], ...] = (ControlPlaneSettings, DataPlaneSettings, LlmSimSettings)

INTRODUCTION = """# Settings

A service takes each setting from the first of these that gives it: its flag, its environment variable, the TOML file,
its default. The flag of `metrics_listen` is `--metrics-listen`, its variable `TROUPE_METRICS_LISTEN`, its TOML key
`metrics_listen`: at the top of the file for every service, in the table named after the service for that one. The file
is named by `--config` or `TROUPE_CONFIG`. A list is JSON in a variable (`["a", "b"]`); its flag is given once for each
member. Times are in seconds. `troupe SERVICE --print-settings` shows what is in effect, with secrets masked.

`troupe up` reads the variables and the file too; `TROUPE_LISTEN` and `TROUPE_METRICS_LISTEN` are then its worker's.
A default port that is taken moves on to the next free one; a port that was given does not.

"""

COMMAND_LINE = """## Variables of the command line

| variable | meaning |
|---|---|
| `TROUPE_SERVER` | `host:port` of the control plane; else what `troupe up` left in its data directory |
| `TROUPE_GATEWAY` | `host:port` of any worker; else the same |
| `TROUPE_DATA` | the data directory; else `$XDG_DATA_HOME/troupe`, else `~/.local/share/troupe` |
| `TROUPE_TLS_CA`, `TROUPE_TLS_CERT`, `TROUPE_TLS_KEY` | PEM files: whom clients trust, and what they show |
| `TROUPE_TOKEN` | the bearer token that clients show, or `@FILE` that holds it |
| `TROUPE_TOKENS` | the file that `troupe token new` adds to |
| `TROUPE_LLM`, `TROUPE_MODEL`, `TROUPE_LLM_KEY` | model endpoint of `troupe up`: URL with `/v1`, model, bearer token |
| `OPENAI_BASE_URL`, `OPENAI_API_KEY` | in place of `TROUPE_LLM` and `TROUPE_LLM_KEY` where those are not set |
| `TROUPE_BROKER`, `TROUPE_STATE`, `TROUPE_LISTEN` | as the flags of `troupe up` and the settings of the worker |
| `TROUPE_CONFIG` | the TOML file of settings |
"""


def page() -> str:
    """What all services share, then each service's own."""
    shared, access = ServiceSettings.model_fields, AccessSettings.model_fields
    parts = [INTRODUCTION, "## All services\n\n", _table({name: shared[name] for name in shared if name != "listen"})]
    added = {name: field for name, field in access.items() if name not in shared}
    parts += ["\n## Control plane and worker\n\n", _table(added)]
    for settings in SERVICES:
        own = {
            name: field
            for name, field in settings.model_fields.items()
            if _differs(field, shared.get(name)) and _differs(field, access.get(name))
        }
        parts.append(f"\n## {settings.service}\n\n{_table(own)}")
    return "".join(parts) + "\n" + COMMAND_LINE


def kind(annotation: Any) -> str:
    """What a setting holds, in a word."""
    members = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) is Literal:
        return ", ".join(code(one) for one in members)
    if get_origin(annotation) is list:
        return f"list of {kind(members[0])}"
    if members:
        return kind(members[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(code(str(one.value)) for one in annotation)
    names = {Path: "path", bool: "on or off", int: "number", float: "seconds", SecretStr: "secret"}
    return names.get(annotation, "text")


def bounds(field: FieldInfo) -> Iterator[str]:
    """`at least 1` and the like, from the constraints."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "members: at least"}
    for constraint in field.metadata:
        for name, word in words.items():
            if (limit := getattr(constraint, name, None)) is not None:
                yield f"{word} {limit:,}" if isinstance(limit, int) else f"{word} {limit:g}"


def _differs(field: FieldInfo, other: FieldInfo | None) -> bool:
    return other is None or (field.default, field.description) != (other.default, other.description)


def _table(fields: dict[str, FieldInfo]) -> str:
    rows = (
        [code(name), ", ".join([_kind(name, field), *bounds(field)]), _default(field), field.description or ""]
        for name, field in fields.items()
    )
    return table(["setting", "holds", "default", "meaning"], rows)


def _kind(name: str, field: FieldInfo) -> str:
    return "share" if name.endswith("probability") else kind(field.annotation)


def _default(field: FieldInfo) -> str:
    match field.get_default(call_default_factory=True, validated_data={}):
        case None | SecretStr() | "":
            return "none"
        case bool(value):
            return "on" if value else "off"
        case list(values):
            return code(json.dumps([str(getattr(value, "value", value)) for value in values]))
        case value:
            return code(str(value))
