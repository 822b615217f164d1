"""The page of contracts, from `protos/troupe/v1` and its comments."""

from collections.abc import Iterator

from generation.descriptors import Contract, Declaration, contracts
from generation.markdown import anchor, code, table

INTRODUCTION = """# Contracts

The gRPC services and messages of `troupe.v1`, as the comments of [protos/troupe/v1](../../protos/troupe/v1) have them.
A field or value that is not built yet is answered with `UNIMPLEMENTED`. Every server also serves
`grpc.health.v1.Health`, reflection and channelz. The errors are in [errors.md](errors.md).

"""


def page() -> str:
    """Every file: services, messages, enums."""
    found = contracts()
    links = table(
        ["file", "what it holds"],
        ([f"[{_title(one)}](#{anchor(_title(one))})", one.comment] for one in found),
    )
    known = {one.name for contract in found for one in (*contract.messages, *contract.enums)}
    return INTRODUCTION + links + "".join(part for one in found for part in _described(one, known))


def _title(contract: Contract) -> str:
    return contract.name.rpartition("/")[2]


def _described(contract: Contract, known: set[str]) -> Iterator[str]:
    yield f"\n## {_title(contract)}\n\n{contract.comment}\n"
    for service in contract.services:
        yield _head(service)
        rows = ([code(one.name), _linked(one.type, known), one.comment] for one in service.members)
        yield table(["call", "takes and gives", "meaning"], rows)
    for message in contract.messages:
        yield _head(message)
        rows = (
            [code(one.name), _linked(one.type, known), str(one.number), _of(one.oneof) + one.comment]
            for one in message.members
        )
        yield table(["field", "type", "number", "meaning"], rows)
    for enum in contract.enums:
        yield _head(enum)
        yield table(
            ["value", "number", "meaning"], ([code(one.name), str(one.number), one.comment] for one in enum.members)
        )


def _head(declaration: Declaration) -> str:
    return f"\n### {declaration.name}\n\n{declaration.comment}\n\n"


def _of(oneof: str) -> str:
    return f"(one of {code(oneof)}) " if oneof else ""


def _linked(types: str, known: set[str]) -> str:
    """Types with links to those of ours."""
    words = types.replace("<", "\\< ").replace(">", " >").split(" ")
    shown = (f"[{word}](#{anchor(word)})" if word in known else word for word in words)
    return " ".join(shown).replace("\\< ", "\\<").replace(" >", ">")
