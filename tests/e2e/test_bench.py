"""The benchmark of the broker measures a real RabbitMQ, and finds out who did not do what they say."""

import sys

import pytest
from support.rabbitmq import Node

from bench.broker.throughput import TROUPE
from bench.contender import Contender, ContenderFailed
from bench.soak import SAMPLE, flow

SAYS_FIVE = """
import json, sys, pika
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[2]))
connection.channel().queue_declare("bench", durable=True)
connection.close()
print(json.dumps({"messages": 5, "counted": 5, "seconds": 1}))
"""


async def test_ours_publishes_and_consumes_what_it_says(rabbitmq_node: Node) -> None:
    assert TROUPE.publish(rabbitmq_node, 0.2) > 0
    assert TROUPE.publish(rabbitmq_node, 0.2, mode="publish_many") > 0
    assert Contender(TROUPE.name, TROUPE.command, 2_000, TROUPE.queue).consume(rabbitmq_node) > 0


def test_a_contender_whose_messages_are_not_in_the_queue_failed(rabbitmq_node: Node) -> None:
    liar = Contender("liar", [sys.executable, "-c", SAYS_FIVE], consumed=1)

    with pytest.raises(ContenderFailed, match="liar publish: 0 messages are in the queue, not 5"):
        liar.publish(rabbitmq_node, 1)


async def test_the_soak_sends_and_receives_in_order_and_watches_memory(amqp_url: str) -> None:
    rate, growth = await flow(amqp_url, 2 * SAMPLE)

    assert rate.ours > 0
    assert growth.samples["ours"]
