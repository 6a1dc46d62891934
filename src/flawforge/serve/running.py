"""Running the app under uvicorn: bind, serve, and on SIGTERM finish what was accepted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from flawforge.serve.connections import Bounds, protocol
from flawforge.serve.logs import log
from flawforge.serve.service import Service
from flawforge.types import ConfigError

GRACE = 90  # seconds that requests may take to end once the service stops; longer than a body and its verdicts may take
KEEP_ALIVE = 20  # seconds that an idle connection stays open


class Server(uvicorn.Server):
    """uvicorn's, which tells the service at once that it stops: watchers of live results would otherwise hold it up."""

    def __init__(self, config: uvicorn.Config, bounds: Bounds) -> None:
        super().__init__(config)
        self._bounds = bounds

    async def startup(self, sockets: Any = None) -> None:
        """uvicorn's; what asyncio cannot accept is one line a period in the log."""
        asyncio.get_running_loop().set_exception_handler(self._bounds.without_files)
        await super().startup(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        """Take no more, tell watchers to go, finish the rest."""
        service: Service = self.config.app.state.service
        service.running = False
        service.live.close()
        log("stopping", taken={name: line.taken for name, line in service.lines.items()})
        await super().shutdown(sockets)
        self._captured_signals.clear()  # uvicorn would raise them again, and the command would not come to its end


def server_of(app: FastAPI, host: str, port: int, bounds: Bounds | None = None) -> Server:
    """A server that is not started yet; port 0 = any free one. bounds: of connections, None = as many as may be open."""
    bounds = Bounds() if bounds is None else bounds
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=bounds.backlog,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=32 << 10,
        http=protocol(bounds),
        ws="none",
        lifespan="on",
    )
    return Server(config, bounds)


def run(app: FastAPI, host: str, port: int, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or Ctrl-C; SIGHUP opens every model's folder again.

    ready  called with the address once requests are taken
    Raises ConfigError where the address cannot be bound, before anything is watched or pruned.
    """
    server = server_of(app, host, port)
    sockets = bound(host, port, server.config.backlog)
    asyncio.run(_serve(app, server, sockets, ready))


def bound(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets, one for each address of `host`; port 0 = any free one, the same for all. Raises ConfigError."""
    sockets: list[socket.socket] = []
    try:
        for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            taken = sockets[0].getsockname()[1] if sockets else port
            place = (address[0], taken, *address[2:])
            sockets.append(socket.create_server(place, family=family, backlog=backlog))
    except OSError as error:
        for each in sockets:
            each.close()
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # getaddrinfo's are below 0
        raise ConfigError(
            f"No request can reach {host}:{port} ({why}); stop what listens there, or give another --port or --host."
        ) from None
    return sockets


async def _serve(app: FastAPI, server: Server, sockets: list[socket.socket], ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    service: Service = app.state.service
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, reload_all, service))
    serving = asyncio.create_task(server.serve(sockets))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await serving


def reload_all(service: Service) -> None:
    """Open every model's folder again; one that cannot be opened stays as it is, and the log says so."""
    for name in service.shelf.names:
        try:
            served, changed = service.shelf.reload(name)
            log("model reloaded", model=name, manifest=served.manifest, changed=changed)
        except Exception as error:  # whatever it is, the models after it are opened
            log("model not reloaded", 40, model=name, reason=str(error) or type(error).__name__)
