"""Networks in forked processes (Gunicorn with preload, PyTorch's loaders).

A fork copies the memory of a network and none of its threads. Whoever then asks the copy, or frees it, waits for ever for
threads that are not there. So in a child an exported network is made anew, and the parent's copy is kept until the process
ends; torch, whose threads belong to the process, computes with one thread (see flawforge.loading).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

THREADED = ("torch",)  # packages whose threads belong to the process, not to a network

_inherited: set[str] = set()
_networks: weakref.WeakSet[PerProcess] = weakref.WeakSet()
_shared: dict[tuple[str, int], Any] = {}  # by name and process


class PerProcess:
    """A network that is made by `make`, and made anew in a forked process when it is first asked there."""

    def __init__(self, make: Callable[[], Callable[..., tuple[Any, ...]]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._network = make()
        self._process = os.getpid()
        _networks.add(self)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._network = self._make()
                    self._process = os.getpid()
        return self._network(*inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._network, name)

    def keep(self) -> None:
        """In a child: never free the parent's network, at the process's end neither; and forget who held the lock."""
        self._lock = threading.Lock()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._network))


def shared(name: str, make: Callable[[], Any]) -> Any:
    """What `make` gives: one for each process, kept until the process ends."""
    key = (name, os.getpid())
    if key not in _shared:
        _shared.setdefault(key, make())  # of two threads that come at a time, both get what the first has made
    return _shared[key]


def inherited(package: str) -> bool:
    """Whether this process was forked from one that had loaded `package`, one of THREADED."""
    return package in _inherited


def _after_fork() -> None:
    _inherited.update(name for name in THREADED if name in sys.modules)
    for network in list(_networks):
        network.keep()
    for made in _shared.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # as `keep`


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
