"""How one resource names another: by its name within the same namespace, or as `namespace/name`."""

from troupe.resources.content import Key


def resolve(kind: str, reference: str, namespace: str) -> Key:
    """The key that `reference` means in a resource of `namespace`. Nothing is checked: a malformed reference leads
    to a key that no valid resource has."""
    other, slash, name = reference.rpartition("/")
    return Key(kind, other if slash else namespace, name)


def shortest(target: Key, namespace: str) -> str:
    """The reference to `target` as a resource of `namespace` writes it."""
    return target.name if target.namespace == namespace else f"{target.namespace}/{target.name}"
