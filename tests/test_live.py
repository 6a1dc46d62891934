"""Every recorded verdict reaches every watcher, in order; who is slow loses the oldest; a stop is told to all."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.serve.live import WAITING, Live, Watcher
from flawforge.store.verdicts import Verdict
from test_store import verdict


def numbered(number: int) -> Verdict:
    return verdict(part_id=str(number))


def drained(watcher: Watcher) -> list[str | None]:
    """What waits: part ids, and None where the service stops."""
    found: list[str | None] = []
    while not watcher.empty():
        each = watcher.get_nowait()
        found.append(None if each is None else each.part_id)
    return found


async def given_out() -> None:
    """Let the loop run what other threads have handed over."""
    for _ in range(3):
        await asyncio.sleep(0)


# (what happens, of which watcher): publish one, or a watcher comes, leaves, or reads all that waits
EVENTS = st.lists(
    st.tuples(st.sampled_from(["publish", "publish", "come", "leave", "read"]), st.integers(0, 3)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_a_watcher_sees_what_is_recorded_from_its_coming_to_its_leaving(events: list[tuple[str, int]]) -> None:
    async def run() -> None:
        live = Live()
        live.begin()
        watchers: dict[int, Watcher] = {}
        due: dict[int, list[str]] = {}
        for number, (what, who) in enumerate(events):
            if what == "publish":
                live.publish(numbered(number))
                await given_out()
                for waits in due.values():
                    waits.append(str(number))
            elif what == "come" and who not in watchers:
                watchers[who], due[who] = live.watch(), []
            elif what == "leave" and who in watchers:
                live.leave(watchers[who])
                gone = watchers.pop(who)
                assert drained(gone) == due.pop(who)
                live.publish(numbered(number))
                await given_out()
                assert gone.empty()
                for waits in due.values():
                    waits.append(str(number))
            elif what == "read" and who in watchers:
                assert drained(watchers[who]) == due[who]
                due[who] = []
        for who, watcher in watchers.items():
            assert drained(watcher) == due[who]

    asyncio.run(run())


@settings(max_examples=10, deadline=None)
@given(count=st.integers(WAITING - 2, WAITING + 30), closed=st.booleans())
def test_who_is_slow_loses_the_oldest_and_never_the_end(count: int, closed: bool) -> None:
    async def run() -> None:
        live = Live()
        live.begin()
        slow = live.watch()
        for number in range(count):
            live.publish(numbered(number))
        await given_out()
        if closed:
            live.close()
        expected: list[str | None] = [str(number) for number in range(count)]
        expected += [None] if closed else []
        assert drained(slow) == expected[-WAITING:]

    asyncio.run(run())


def test_who_comes_after_the_end_is_told_at_once() -> None:
    async def run() -> None:
        live = Live()
        live.begin()
        live.close()
        assert drained(live.watch()) == [None]
        live.begin()  # a service that runs again
        assert drained(live.watch()) == []

    asyncio.run(run())


def test_before_the_loop_runs_nothing_is_given_and_nothing_fails() -> None:
    live = Live()
    live.publish(numbered(0))

    async def run() -> list[str | None]:
        live.begin()
        watcher = live.watch()
        await given_out()
        return drained(watcher)

    assert asyncio.run(run()) == []


def test_threads_may_publish_at_once() -> None:
    """Each thread's verdicts arrive whole and in the thread's own order."""

    async def run() -> list[str | None]:
        live = Live()
        live.begin()
        watcher = live.watch()

        def work(start: int) -> None:
            for number in range(start, start + 20):
                live.publish(numbered(number))

        threads = [threading.Thread(target=work, args=(100 * place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.001)
        await given_out()
        return drained(watcher)

    found = [int(each) for each in asyncio.run(run()) if each is not None]
    assert sorted(found) == [100 * place + number for place in range(4) for number in range(20)]
    for place in range(4):
        own = [number for number in found if number // 100 == place]
        assert own == sorted(own)
