"""What a fleet declares in its vhost."""

import pytest

from troupe.broker.addressing import mailbox, task_queue
from troupe.broker.rabbitmq import topology
from troupe.broker.rabbitmq.ladder import RUNGS

ALL = {queue.name: queue for queue in topology.queues(3, ["gpu"])}


def test_every_queue_is_a_quorum_queue_without_a_bound() -> None:
    for queue in ALL.values():
        assert queue.arguments["x-queue-type"] == "quorum"
        assert not {"x-max-length", "x-max-length-bytes", "x-expires"} & set(queue.arguments)


def test_no_queue_loses_a_message_to_the_default_delivery_limit_of_rabbitmq_4() -> None:
    assert all(queue.arguments["x-delivery-limit"] > 20 for queue in ALL.values())  # type: ignore[operator]


def test_there_is_a_queue_for_each_shard_pool_and_rung() -> None:
    assert {mailbox(0), mailbox(1), mailbox(2), task_queue("gpu")} <= set(ALL)
    assert {"troupe.v1.dlq.agents", "troupe.v1.dlq.gpu", "troupe.v1.unroutable"} <= set(ALL)
    assert len(ALL) == 3 + 1 + 2 + 2 + 25


def test_mailboxes_have_one_consumer_and_task_queues_any_number() -> None:
    assert ALL[mailbox(1)].single
    assert not ALL[task_queue("gpu")].single


@pytest.mark.parametrize(("queue", "pool"), [(mailbox(0), "agents"), (task_queue("gpu"), "gpu")])
def test_what_the_server_gives_up_goes_to_its_pools_letters_and_is_not_lost_on_the_way(queue: str, pool: str) -> None:
    arguments = ALL[queue].arguments
    assert arguments["x-dead-letter-exchange"] == topology.DEAD
    assert arguments["x-dead-letter-routing-key"] == pool
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"


def test_delayed_messages_return_to_their_own_queue() -> None:
    for rung in RUNGS:
        queue = ALL[f"troupe.v1.delay.{rung}"]
        assert queue.arguments["x-message-ttl"] == rung
        assert queue.arguments["x-dead-letter-exchange"] == topology.WORK
        assert "x-dead-letter-routing-key" not in queue.arguments
        assert queue.bindings == ((queue.name, ""),)
    assert (topology.WORK, task_queue("gpu")) in ALL[task_queue("gpu")].bindings


def test_every_exchange_that_a_queue_names_is_declared() -> None:
    declared = {exchange.name for exchange in topology.EXCHANGES}
    for queue in ALL.values():
        assert {exchange for exchange, _ in queue.bindings} <= declared
        assert queue.arguments.get("x-dead-letter-exchange", topology.IN) in declared


def test_only_where_a_publisher_waits_do_messages_come_back() -> None:
    alternates = {exchange.name: exchange.alternate for exchange in topology.EXCHANGES}
    assert alternates[topology.IN] == ""
    assert alternates[topology.WORK] == alternates[topology.DEAD] == topology.UNROUTABLE


def test_what_leads_nowhere_else_is_declared_first() -> None:
    names = list(ALL)
    assert names[0] == topology.UNROUTABLE
    assert names.index("troupe.v1.dlq.gpu") < names.index(mailbox(0)) < names.index("troupe.v1.delay.80")


@pytest.mark.parametrize("name", list(ALL))
def test_a_queue_is_known_again_by_its_name(name: str) -> None:
    if name != topology.UNROUTABLE:
        assert topology.found(name) == ALL[name]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "other",
        *("troupe.v1." + rest for rest in ("mailbox.x", "mailbox.007", "mailbox.٣", "delay.81", "delay.0100")),
        *("troupe.v1." + rest for rest in ("task.", "task.GPU", f"task.{64 * 'x'}", "dlq.", "dlq.a b")),
    ],
)
def test_a_strangers_name_is_known_as_none(name: str) -> None:
    assert topology.found(name) is None


def test_where_a_message_goes_is_named_by_exchange_and_key() -> None:
    assert topology.destination(topology.IN, mailbox(1)) == mailbox(1)
    assert topology.destination(topology.DEAD, "gpu") == "troupe.v1.dlq.gpu"
    assert topology.destination("troupe.v1.delay.80", task_queue("gpu")) == "troupe.v1.delay.80"
