"""Revisions over gRPC: stored, refused, listed."""

import asyncio

import pytest
from support.control_planes import Client
from support.fleets import agent, fleet, model

from troupe.chassis.errors import (
    Aborted,
    AlreadyExists,
    InvalidArgument,
    NotFound,
)
from troupe.chassis.ids import uuid7
from troupe.v1.control_plane_pb2 import (
    RevisionInfo,
)
from troupe.v1.resource_pb2 import AgentSpec


async def test_sync_stores_a_revision_that_can_be_read_back(client: Client) -> None:
    revision = await client.sync(fleet())
    assert (revision.generation, revision.term, revision.resource_count, revision.current) == (1, 1, 3, True)
    got = await client.revision()
    assert got.revision == revision
    assert list(got.config.resources) == fleet()
    assert (got.config.generation, got.config.content_hash) == (1, revision.content_hash)


async def test_sync_again_gets_the_stored_answer(client: Client) -> None:
    one = await client.sync(fleet())
    assert await client.sync(fleet(), revision_id=one.revision_id) == one
    two = await client.sync(fleet(prompt="Other."), parent=one.revision_id)
    late = await client.sync(fleet(), revision_id=one.revision_id)
    assert (late.generation, late.current) == (1, False)
    assert two.generation == 2


async def test_sync_of_other_content_under_the_same_id_is_already_exists(client: Client) -> None:
    one = await client.sync(fleet())
    with pytest.raises(AlreadyExists) as raised:
        await client.sync(fleet(prompt="Other."), revision_id=one.revision_id)
    assert raised.value.reason == "REVISION_ID_TAKEN"


async def test_sync_from_another_parent_is_aborted_with_the_current_revision(client: Client) -> None:
    one = await client.sync(fleet())
    for parent in ("", uuid7()):
        with pytest.raises(Aborted) as raised:
            await client.sync(fleet(), parent=parent)
        assert raised.value.metadata["current_revision_id"] == one.revision_id


async def test_sync_of_an_invalid_set_names_each_field_and_stores_nothing(client: Client) -> None:
    wrong = [agent("a", AgentSpec(model="defualt", max_steps=0)), model()]
    with pytest.raises(InvalidArgument) as raised:
        await client.sync(wrong)
    assert [(violation.field, violation.description) for violation in raised.value.violations] == [
        ("Agent/default/a spec.maxSteps", "must be 1 to 1,000, not 0"),
        ("Agent/default/a spec.model", 'there is no Model "defualt"; did you mean "default"?'),
    ]
    with pytest.raises(NotFound):
        await client.revision()


async def test_a_very_wrong_set_is_still_one_answer(client: Client) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await client.sync([agent(f"a{number}", AgentSpec(model="gone")) for number in range(5_000)])
    assert raised.value.violations[0].field == "Agent/default/a0 spec.model"
    assert raised.value.violations[-1].description.startswith("and ")


async def test_validate_only_says_what_would_be_and_stores_nothing(client: Client) -> None:
    would_be = await client.sync(fleet(), validate_only=True)
    assert (would_be.generation, would_be.resource_count, would_be.current) == (1, 3, False)
    assert list((await client.revisions()).revisions) == []
    with pytest.raises(InvalidArgument):
        await client.sync([agent()], validate_only=True)


async def test_of_syncs_at_once_from_one_parent_one_wins(client: Client) -> None:
    results = await asyncio.gather(
        *(client.sync(fleet(prompt=f"Prompt {number}.")) for number in range(8)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, RevisionInfo)]
    assert len(won) == 1
    assert all(isinstance(result, Aborted) for result in results if not isinstance(result, RevisionInfo))


async def test_revisions_are_listed_in_pages_from_the_newest(client: Client) -> None:
    parent = ""
    for number in range(5):
        parent = (await client.sync(fleet(prompt=f"Prompt {number}."), parent=parent)).revision_id
    page = await client.revisions(page_size=2)
    assert [(about.generation, about.current) for about in page.revisions] == [(5, True), (4, False)]
    page = await client.revisions(page_size=2, page_token=page.next_page_token)
    assert [about.generation for about in page.revisions] == [3, 2]
    page = await client.revisions(page_size=2, page_token=page.next_page_token)
    assert ([about.generation for about in page.revisions], page.next_page_token) == ([1], "")
    for wrong in ({"page_size": 101}, {"page_token": "x"}, {"page_token": "-1"}, {"page_token": "9" * 30}):
        with pytest.raises(InvalidArgument):
            await client.revisions(**wrong)


async def test_an_unknown_revision_is_not_found(client: Client) -> None:
    await client.sync(fleet())
    with pytest.raises(NotFound):
        await client.revision("nonsense" * 100)
