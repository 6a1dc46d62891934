"""A network per process: made once, made again in a forked child, shared by threads."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flawforge_runtime import decode, forks
from flawforge_runtime.forks import PerProcess

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


class Maker:
    """Makes networks that answer with the process and the number of the network."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Callable[..., tuple[Any, ...]]:
        self.made += 1
        number, process = self.made, os.getpid()

        def network(*given: Any) -> tuple[Any, ...]:
            return number, process, given

        network.size = 7  # type: ignore[attr-defined]
        return network


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked child, as JSON through a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def test_a_network_is_made_once_and_answers_as_itself() -> None:
    make = Maker()
    network = PerProcess(make)
    assert network(1, "a") == (1, os.getpid(), (1, "a"))
    assert network() == (1, os.getpid(), ())
    assert make.made == 1


def test_attributes_are_the_networks_own_and_private_ones_are_not() -> None:
    network = PerProcess(Maker())
    assert network.size == 7
    with pytest.raises(AttributeError):
        _ = network.width
    with pytest.raises(AttributeError, match="_secret"):
        _ = network._secret


@FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_makes_its_own_and_the_parent_keeps_its() -> None:
    make = Maker()
    network = PerProcess(make)
    parent = network()

    def work() -> Any:
        first, second = network(), network()
        return [first, second, os.getpid(), make.made]

    first, second, process, made = in_child(work)
    assert first == second == [2, process, []]
    assert made == 2
    assert process != os.getpid()
    assert network() == parent
    assert make.made == 1


@FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_never_asks_makes_none() -> None:
    make = Maker()
    network = PerProcess(make)
    assert in_child(lambda: [make.made, network.size]) == [1, 7]


@FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_that_another_thread_held_at_the_fork_does_not_stop_the_child() -> None:
    network = PerProcess(Maker())
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with network._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        number, _, _ = in_child(lambda: network())
    finally:
        done.set()
        thread.join()
    assert number == 2


@FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_knows_what_its_parent_had_loaded() -> None:
    assert forks.inherited("torch") is False or "torch" in sys.modules
    assert in_child(lambda: forks.inherited("torch")) is ("torch" in sys.modules)
    assert in_child(lambda: forks.inherited("numpy")) is False  # its threads are no trouble


def test_threads_share_one_network() -> None:
    make = Maker()
    network = PerProcess(make)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(network())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer[0] for answer in answers} == {1}
    assert make.made == 1


def test_networks_that_are_gone_are_forgotten() -> None:
    import gc

    network = PerProcess(Maker())
    assert network in forks._networks
    before = len(forks._networks)
    del network
    gc.collect()
    assert len(forks._networks) < before


@FORKS
def test_a_child_decodes_although_a_thread_decoded_while_it_was_forked() -> None:
    started, held = threading.Event(), decode._pillow_limit

    def decoding() -> None:
        with held:
            started.set()
            time.sleep(0.2)

    thread = threading.Thread(target=decoding)
    thread.start()
    assert started.wait(10)
    assert in_child(lambda: held.acquire(timeout=5))
    thread.join()
    assert held.acquire(timeout=5)
    held.release()


@FORKS
def test_what_is_shared_is_made_once_in_each_process() -> None:
    mine = forks.shared("list", list)
    assert forks.shared("list", list) is mine
    assert forks.shared("other", list) is not mine

    def there() -> list[bool]:
        own = forks.shared("list", list)
        return [own is mine, own is forks.shared("list", list)]

    assert in_child(there) == [False, True]
    assert forks.shared("list", list) is mine
