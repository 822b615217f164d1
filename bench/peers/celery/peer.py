"""Celery: `confirm_publish`, quorum queues, results ignored, late acks, several threads that send (each waits for its
confirm), the solo pool (one process), and the prefetch that its guide advises for many short tasks.
"""

import contextlib
import threading

import meter
from celery import Celery
from celery.worker import state

SENDERS = 8
PREFETCH = 128
LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def main() -> None:
    asked = meter.asked()
    app = Celery("peer", broker=asked.url)
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        broker_pool_limit=SENDERS,
        task_default_queue=asked.queue,
        task_default_queue_type="quorum",
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=PREFETCH,
        worker_send_task_events=False,
        worker_redirect_stdouts=False,
    )
    measured: meter.Publishing | meter.Consuming
    consuming = meter.Consuming(asked.messages)

    @app.task(name="work")
    def work(text: str) -> None:
        if consuming.handled():
            # It acks a task after this returns; stopped at once, it would leave the last acks unsent.
            threading.Timer(1.0, stop).start()

    def stop() -> None:
        state.should_stop = 0

    def send(sending: meter.Sending) -> None:
        while sending.sending():
            work.delay(meter.PAYLOAD)
            sending.confirmed()

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
        with contextlib.suppress(SystemExit):
            app.worker_main(["--quiet", "worker", "--pool=solo", "--concurrency=1", "--loglevel=WARNING", *LEAN])
    measured.report()


main()
