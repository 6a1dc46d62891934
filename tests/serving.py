"""A service on a free port of loopback, in this process, and what tests send to it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import flawforge_runtime
from flawforge.serve.access import Tokens
from flawforge.serve.app import create_app
from flawforge.serve.connections import Bounds
from flawforge.serve.running import Server, server_of
from flawforge.serve.service import Service, Settings
from flawforge.serve.shelf import Shelf, open_shelf
from flawforge.store.opening import Store, open_store

PNG = {"content-type": "image/png"}


class Running:
    """A service that answers. http: a client; service: what it holds."""

    def __init__(self, server: Server, app: Any) -> None:
        self.server, self.service = server, app.state.service
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.service: Service

    def judge(self, data: bytes, **how: Any) -> httpx.Response:
        """POST the bytes of one picture."""
        headers = PNG | how.pop("headers", {})
        return self.http.post("/v1/inspect", content=data, headers=headers, params=how)

    def send(self, *files: tuple[str, bytes], headers: dict[str, str] | None = None, **data: str) -> httpx.Response:
        """POST several pictures as multipart/form-data."""
        return self.http.post("/v1/inspect", files=[("files", each) for each in files], data=data, headers=headers)


@contextmanager
def serving(
    shelf: Shelf,
    store: Store,
    tokens: Tokens = Tokens(),  # noqa: B008
    settings: Settings = Settings(),  # noqa: B008
    bounds: Bounds | None = None,
) -> Iterator[Running]:
    """A running service; at the end it stops as on SIGTERM, and no thread of it is left."""
    app = create_app(shelf, store, tokens, settings)
    server = server_of(app, "127.0.0.1", 0, bounds)
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.005)
    running = Running(server, app)
    try:
        yield running
    finally:
        running.http.close()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def served(
    model: Path,
    db: str | Path,
    tokens: Tokens = Tokens(),  # noqa: B008
    bounds: Bounds | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A service of one exported model called part, with a store of its own."""
    shelf = open_shelf({"part": model}, flawforge_runtime.load)
    with open_store(db) as store, serving(shelf, store, tokens, Settings(**settings), bounds) as running:
        yield running


def picture(seed: int = 0, size: int = 64) -> bytes:
    """A PNG of noise: unlike every good part, so NG, and unlike every other seed's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
