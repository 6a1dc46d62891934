"""Reading from an object store that may stall or refuse for a while: every try has a deadline, and tries are counted."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from flawforge.types import ConfigError, DataError

Value = TypeVar("Value")
THREADS = 4  # pictures that a worker fetches ahead of the one that it judges
FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError)  # another try gives the same answer


class StoreError(DataError):
    """An object store did not answer in all tries. It costs no picture: the part is judged in the next run."""


@dataclass(frozen=True)
class Patience:
    """With a store. tries: at one picture; seconds: for each; pause: before the second try, doubled for each further one."""

    tries: int = 5
    seconds: float = 30.0
    pause: float = 1.0


PATIENCE = Patience()


def is_url(name: str) -> bool:
    """Whether a name is an address such as s3://bucket/part.png, and no path."""
    scheme, mark, _ = name.partition("://")
    return bool(mark) and scheme.isidentifier()


def store_of(url: str) -> tuple[Any, str]:
    """(fsspec's file system, path in it) of an address. Raises ConfigError where its package is missing or it is unknown."""
    try:
        import fsspec
    except ImportError:
        raise ConfigError(f"{url} needs the package fsspec; pip install 'flawforge[scale]', or give a path.") from None
    try:
        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{url} cannot be opened ({reason}); install that package, or give a path.") from None
    return store, str(path)


def patient(call: Callable[[], Value], what: str, patience: Patience) -> Value:
    """What `call` gives, at the latest at the last try. Raises FOR_GOOD at once, StoreError after the last try."""
    reason = ""
    for number in range(patience.tries):
        if number:
            time.sleep(patience.pause * 2 ** (number - 1))
        try:
            return call()
        except FOR_GOOD:
            raise
        except TimeoutError:
            reason = f"no answer in {patience.seconds:g} s"
        except Exception as error:  # every store has classes of its own for "busy"
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")[:160]
    raise StoreError(
        f"{what} could not be read in {patience.tries} tries ({reason}); see that the store answers and run the same "
        "command again."
    )


def fetch(url: str, patience: Patience) -> bytes:
    """The bytes behind an address. Raises OSError for what is not there or not allowed, StoreError as `patient`."""
    store, path = store_of(url)

    def once() -> bytes:
        if not store.async_impl:
            return bytes(store.cat_file(path))
        from fsspec.asyn import sync

        async def within() -> Any:
            return await asyncio.wait_for(store._cat_file(path), patience.seconds)

        return bytes(sync(store.loop, within))

    return patient(once, url, patience)


def fetched(
    names: Iterable[str], base: Path, patience: Patience, most: int = THREADS
) -> Iterator[tuple[str, Path | OSError]]:
    """Each name with the path where its picture lies now: below `base`, or in a temporary file, gone with the next name.

    Pictures behind addresses are fetched ahead, at most `most` beyond the one that is being judged, so that a worker's disk
    and memory hold that many at a time. What is not there, or not allowed, comes as its OSError. Raises StoreError.
    """
    with tempfile.TemporaryDirectory(prefix="flawforge-fetched-") as folder, ThreadPoolExecutor(most) as pool:
        ahead: deque[tuple[str, Future[Path] | Path]] = deque()

        def get(number: int, url: str) -> Path:
            place = Path(folder) / f"{number}{PurePosixPath(url).suffix}"
            place.write_bytes(fetch(url, patience))
            return place

        def next_one() -> tuple[str, Path | OSError]:
            name, place = ahead.popleft()
            if isinstance(place, Path):
                return name, place
            try:
                return name, place.result()
            except FOR_GOOD as error:
                return name, error

        def given() -> Iterator[tuple[str, Path | OSError]]:
            for number, name in enumerate(names):
                ahead.append((name, pool.submit(get, number, name) if is_url(name) else base / name))
                if len(ahead) > most:
                    yield next_one()
            while ahead:
                yield next_one()

        try:
            for name, place in given():
                yield name, place
                if is_url(name) and isinstance(place, Path):
                    place.unlink(missing_ok=True)
        finally:
            for _, each in ahead:
                if isinstance(each, Future):
                    each.cancel()
