"""The service as a process of its own: attacked by schemathesis, killed, with a full disk, without its database."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flawforge.store import verdicts
from flawforge.store.opening import open_store
from serving import PNG, picture, served

pytestmark = pytest.mark.line
TOKEN = "a" * 24
WHO = {"Authorization": f"Bearer {TOKEN}"}
# What the schema cannot say: which bytes are a picture, and how large the picture of a result is.
SCHEMATHESIS = """
[[operations]]
include-path = "/v1/inspect"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "413", "422"]

[[operations]]
include-path = "/v1/reviews"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "422"]
"""


@contextmanager
def process(model: Path, db: object, *options: str, before: tuple[str, ...] = (), **how: Any) -> Iterator[tuple[Any, str]]:
    """`flawforge serve` on a free port: (the process, its address)."""
    command = [*before, sys.executable, "-m", "flawforge", "serve", str(model), "--port", "0", "--db", str(db), *options]
    environment = {**os.environ, "FLAWFORGE_TOKENS": f"admin root {TOKEN}", **how.pop("env", {})}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, **how
    )
    assert running.stdout is not None
    assert running.stderr is not None
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(running.stderr))
    reader.start()
    try:
        said = running.stdout.readline()
        match = re.search(r"http://\S+:\d+", said)
        assert match, (said, log)
        running.log = log  # type: ignore[attr-defined]
        yield running, match[0].rstrip(";")
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
        running.wait(60)
        reader.join()
        running.stdout.close()
        running.stderr.close()


def send(address: str, seed: int, key: str) -> httpx.Response:
    headers = WHO | PNG | {"Idempotency-Key": key}
    return httpx.post(f"{address}/v1/inspect", content=picture(seed), headers=headers, timeout=60)


def test_schemathesis_finds_nothing(exports: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    program = Path(sys.executable).parent / "st"
    options = ["--max-examples", "20", "--seed", "1", "--no-color", "-H", f"Authorization: Bearer {TOKEN}"]
    with process(exports["onnx"], tmp_path / "r.db") as (_, address):
        done = subprocess.run(
            [str(program), "--config-file", "schemathesis.toml", "run", f"{address}/openapi.json", *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=280,
        )
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r"\n={5,} \d+ failures?", done.stdout) is None


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_kill_in_the_middle_loses_no_acknowledged_row(
    exports: dict[str, Path], tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    db = str(tmp_path / "r.db") if kind == "sqlite" else request.getfixturevalue("postgresql").url()
    acknowledged: dict[int, str] = {}

    def load(address: str, who: int) -> None:
        for number in range(10_000):
            try:
                answer = send(address, who, f"{who}-{number}")
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                acknowledged[answer.json()["results"][0]["id"]] = f"{who}-{number}/0"

    with process(exports["onnx"], db) as (running, address):
        threads = [threading.Thread(target=load, args=(address, who)) for who in range(4)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while len(acknowledged) < 20 and time.monotonic() < end:
            time.sleep(0.01)
        running.kill()
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= 20
    with open_store(db, create=False) as store:
        recorded = list(verdicts.each(store))
    assert acknowledged.items() <= {each.id: each.key for each in recorded}.items()
    keys = [each.key for each in recorded]
    assert len(set(keys)) == len(keys)
    with process(exports["onnx"], db) as (_, address):  # what was not acknowledged is sent again: no row is doubled
        for who in range(4):
            for number in range(5):
                assert send(address, who, f"{who}-{number}").status_code == 200
    with open_store(db, create=False) as store:
        assert len({each.key for each in verdicts.each(store)}) == verdicts.count(store)


def test_a_database_that_goes_and_comes_back(exports: dict[str, Path], tmp_path: Path, postgresql: Any) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    db = postgresql.url()
    with served(exports["onnx"], db, watch=folder) as running:
        assert running.judge(picture(1), headers={"Idempotency-Key": "1"}).status_code == 200
        postgresql.stop()
        try:
            for _ in range(2):
                answer = running.judge(picture(2), headers={"Idempotency-Key": "2"})
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                assert "cannot be used now" in answer.json()["error"]
            assert running.http.get("/v1/ready").status_code == 503
            assert running.http.get("/v1/results").status_code == 503
            assert running.http.get("/v1/health").status_code == 200
            (folder / "a.png").write_bytes(picture(3))
            time.sleep(2)
        finally:
            postgresql.start()
        assert running.judge(picture(2), headers={"Idempotency-Key": "2"}).status_code == 200
        end = time.monotonic() + 60
        while verdicts.count(running.service.store) < 3 and time.monotonic() < end:
            time.sleep(0.1)
        assert sorted(each.source for each in verdicts.each(running.service.store)) == ["http", "http", "watch"]
        assert running.http.get("/v1/ready").status_code == 200


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="unshare is missing, or may not mount here")
def test_a_full_disk_is_503_and_loses_nothing(exports: dict[str, Path], tmp_path: Path) -> None:
    """Store and kept pictures on a disk of 2 MB: once it is full nothing is acknowledged, and all before is there."""
    script = (
        f"mount -t tmpfs -o size=2m none {tmp_path} || exit 1; "
        'trap "" TERM; "$@" & child=$!; trap "kill -TERM $child" TERM; wait $child; wait $child; '
        f"cp {tmp_path}/r.db* {tmp_path.parent}/out/"
    )
    out = tmp_path.parent / "out"
    out.mkdir()
    before = ("unshare", "--map-root-user", "--mount", "bash", "-c", script, "bash")
    acknowledged, refused = [], 0
    with process(exports["onnx"], tmp_path / "r.db", before=before) as (_, address):
        for number in range(400):
            answer = send(address, number, str(number))
            if answer.status_code == 200:
                acknowledged.append(answer.json()["results"][0]["id"])
            else:
                assert answer.status_code == 503, answer.text
                assert "retry-after" in answer.headers
                refused += 1
                if refused == 5:
                    break
        assert refused == 5
        listed = httpx.get(f"{address}/v1/results", params={"limit": 500}, headers=WHO, timeout=60).json()["results"]
        assert [each["id"] for each in listed] == acknowledged[::-1]
        assert httpx.get(f"{address}/v1/ready", timeout=60).status_code == 503
    with open_store(out / "r.db", create=False) as store:
        assert sorted(each.id for each in verdicts.each(store)) == acknowledged


def test_idle_connections_silence_neither_service_nor_log(exports: dict[str, Path], tmp_path: Path) -> None:
    few = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    with contextlib.ExitStack() as stack, process(exports["onnx"], tmp_path / "r.db", before=few) as (running, address):
        port = int(address.rpartition(":")[2])
        for _ in range(300):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            one.sendall(b"GET /v1/health HTTP/1.1\r\nHost: lo")
        assert httpx.get(f"{address}/v1/health", timeout=10).status_code == 200
        assert send(address, 1, "1").status_code == 200
        assert len(list(Path(f"/proc/{running.pid}/fd").iterdir())) < 256
        log = running.log
    assert sum("connections full" in each for each in log) == 1
    assert "Traceback" not in "".join(log)
    assert len("".join(log)) < 100_000


def test_sigterm_finishes_what_was_accepted_and_ends_with_zero(exports: dict[str, Path], tmp_path: Path) -> None:
    found: list[int] = []
    with process(exports["onnx"], tmp_path / "r.db") as (running, address):

        def ask(number: int) -> None:
            try:
                found.append(send(address, number, str(number)).status_code)
            except httpx.HTTPError:  # it came after the end
                found.append(0)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert running.wait(60) == 0
    with open_store(tmp_path / "r.db", create=False) as store:
        assert verdicts.count(store) == found.count(200)
    assert set(found) <= {200, 503, 0}
