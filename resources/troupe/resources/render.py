"""Resources as manifests again: what `troupe get -o yaml` prints and `troupe apply` takes back."""

import base64
import json
import re
from collections.abc import Iterable
from typing import Any

import yaml
from google.protobuf import json_format

from troupe.chassis.errors import InvalidArgument
from troupe.resources.content import key
from troupe.resources.kinds import API_VERSION, unpack
from troupe.v1.resource_pb2 import Resource


def manifest(resource: Resource) -> dict[str, Any]:
    """The manifest as a mapping, in the order apiVersion, kind, metadata, spec. A spec that this version cannot read
    stands as its type and its bytes in base64; every other manifest parses to the same resource."""
    identity, metadata = key(resource), resource.metadata
    shown: dict[str, Any] = {"name": identity.name, "namespace": identity.namespace}
    for name, pairs in (("labels", metadata.labels), ("annotations", metadata.annotations)):
        if pairs:
            shown[name] = dict(sorted(pairs.items()))
    try:
        spec = json_format.MessageToDict(unpack(resource))
    except (InvalidArgument, json_format.Error, ValueError):
        spec = {"@type": resource.spec.type_url, "value": base64.b64encode(resource.spec.value).decode()}
    return {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": shown, "spec": spec}


def to_yaml(resources: Iterable[Resource]) -> str:
    """One document for each resource; texts of several lines as block scalars."""
    return yaml.dump_all(
        (manifest(resource) for resource in resources),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=120,
        explicit_start=True,
    )


def to_json(resources: Iterable[Resource]) -> str:
    """An array of manifests."""
    return json.dumps([manifest(resource) for resource in resources], indent=2, ensure_ascii=False)


_FRAGILE = re.compile("[^\\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML reads as line ends or not at all unless they are escaped."""


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if _FRAGILE.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
