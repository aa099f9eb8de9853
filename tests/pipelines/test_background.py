"""Threads beside the encoders: what is made arrives in order, within its bytes, and errors come after what was made."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from vidloc.pipelines.extraction.background import RunAhead, RunBehind


def waited_for(condition, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def numbers(made, count, error=None):
    for k in range(count):
        made.append(k)
        yield k
    if error is not None:
        raise error


class TestRunAhead:
    def test_items_come_in_order_and_no_more_are_made_than_fit(self):
        made = []
        with RunAhead(numbers(made, 20), size_of=lambda _: 10, capacity_bytes=30) as ahead:
            assert waited_for(lambda: len(made) == 4)  # three wait, one is held until there is room
            time.sleep(0.05)
            assert len(made) == 4
            assert [ahead.take(5.0) for _ in range(20)] == list(range(20))
            assert ahead.take(5.0) is None
            assert ahead.exhausted
        assert len(made) == 20

    def test_one_item_always_fits(self):
        with RunAhead(numbers([], 3), size_of=lambda _: 1000, capacity_bytes=1) as ahead:
            assert [ahead.take(5.0) for _ in range(3)] == [0, 1, 2]

    def test_an_error_follows_what_was_made_before_it(self):
        with RunAhead(numbers([], 2, OSError("broken")), size_of=lambda _: 1, capacity_bytes=100) as ahead:
            assert [ahead.take(5.0), ahead.take(5.0)] == [0, 1]
            with pytest.raises(OSError, match="broken"):
                ahead.take(5.0)
            assert not ahead.exhausted

    def test_leaving_stops_a_source_that_waits_for_room(self):
        made = []
        with RunAhead(numbers(made, 10**6), size_of=lambda _: 1, capacity_bytes=2):
            assert waited_for(lambda: len(made) == 3)
        assert len(made) == 3
        assert not [thread for thread in threading.enumerate() if thread.name == "vidloc-decode"]

    def test_nothing_in_time(self):
        go = threading.Event()

        def slow():
            go.wait(5.0)
            yield 1

        with RunAhead(slow(), size_of=lambda _: 1, capacity_bytes=2) as ahead:
            assert ahead.take(0.01) is None
            assert not ahead.exhausted
            go.set()
            assert ahead.take(5.0) == 1


class TestRunBehind:
    def test_all_that_was_put_is_taken_whatever_ends_it(self):
        taken = []

        def interrupted():
            with RunBehind(taken.append, size_of=lambda _: 1, capacity_bytes=2) as behind:
                for k in range(5):
                    behind.put(k)
                raise KeyError

        with pytest.raises(KeyError):
            interrupted()
        assert taken == list(range(5))

    def test_putting_waits_for_room(self):
        go, taken = threading.Event(), []

        def slow(item):
            go.wait(5.0)
            taken.append(item)

        with RunBehind(slow, size_of=lambda _: 10, capacity_bytes=10) as behind:
            behind.put(0)
            behind.put(1)
            threading.Timer(0.05, go.set).start()
            behind.put(2)
            assert behind.wait_s > 0.02
        assert taken == [0, 1, 2]

    def test_what_the_sink_raises_ends_putting(self):
        def refuse(_):
            raise OSError("full")

        def run():
            with RunBehind(refuse, size_of=lambda _: 1, capacity_bytes=10) as behind:
                for k in itertools.count():
                    behind.put(k)

        with pytest.raises(OSError, match="full"):
            run()
