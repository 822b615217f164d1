"""Dramatiq: `confirm_delivery`, several threads that send (each waits for its confirm), one worker of eight threads,
its default.

Its queues are classic durable ones: it has no setting for quorum queues.
"""

import threading

import dramatiq
import meter
from dramatiq.brokers.rabbitmq import RabbitmqBroker

SENDERS = 8
WORKER_THREADS = 8


def main() -> None:
    asked = meter.asked()
    broker = RabbitmqBroker(url=asked.url, confirm_delivery=True)
    dramatiq.set_broker(broker)
    last = threading.Event()
    measured: meter.Publishing | meter.Consuming
    consuming = meter.Consuming(asked.messages)

    @dramatiq.actor(queue_name=asked.queue)
    def work(text: str) -> None:
        if consuming.handled():
            last.set()

    def send(sending: meter.Sending) -> None:
        while sending.sending():
            work.send(meter.PAYLOAD)
            sending.confirmed()

    broker.declare_queue(asked.queue, ensure=True)
    sending = meter.Publishing(asked.seconds) if asked.seconds else meter.Filling(asked.messages)
    threads = [threading.Thread(target=send, args=[sending]) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if isinstance(sending, meter.Publishing):
        measured = sending
    else:
        measured = consuming
        worker = dramatiq.Worker(broker, worker_threads=WORKER_THREADS)
        worker.start()
        last.wait()
        worker.stop()
    broker.close()
    measured.report()


main()
