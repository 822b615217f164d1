"""What a worker makes of how busy it is."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.fake_clock import FakeClock

from troupe.dataplane.actors.coalescing import COALESCE
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.vitals import Vitals
from troupe.dataplane.watchdog import LoopWatch


def test_text_is_coalesced_by_what_the_thread_had_of_a_processor_since_the_last_look() -> None:
    # Given a worker whose thread has worked all the time
    clock, hub = FakeClock(), Hub()
    host = SimpleNamespace(world=SimpleNamespace(hub=hub), held_up=dict)
    vitals = Vitals(cast(Any, host), LoopWatch(clock), clock)
    began = time.thread_time()
    while (spent := time.thread_time() - began) < 0.02:
        pass
    clock.advance(spent)
    # When it looks, then it shows text as seldom as it may
    vitals.look()
    assert hub.coalesce == pytest.approx(COALESCE[1])
    # When it has had next to nothing to do since, then as often
    clock.advance(10)
    vitals.look()
    assert hub.coalesce == pytest.approx(COALESCE[0])
