"""The service: what it answers, what it refuses, and that it loses and doubles nothing."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

import flawforge_runtime
from flawforge.serve import connections, judging, service
from flawforge.serve import shelf as shelves
from flawforge.serve.access import NOBODY_ASKED, Person, Tokens, check_host, is_loopback, read_tokens
from flawforge.serve.connections import Bounds
from flawforge.serve.gate import HEADERS
from flawforge.serve.running import bound, reload_all
from flawforge.serve.service import Settings
from flawforge.serve.watching import Watcher
from flawforge.serve.work import Full, Job
from flawforge.store import not_judged, opening, reviews, verdicts
from flawforge.store.opening import open_store
from flawforge.types import CalibrationError, ConfigError, ModelError
from flawforge_runtime import bundle
from flawforge_runtime.inspector import Inspector
from serving import PNG, Running, picture, served, serving

OPERATOR, ADMIN = "o" * 24, "a" * 24
TOKENS = f"# the shift\noperator anna {OPERATOR}\nadmin bert {ADMIN}\n"


@pytest.fixture(scope="module")
def line(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service without tokens that many tests share."""
    with served(exports["onnx"], tmp_path_factory.mktemp("line") / "r.db", sample_every=2) as running:
        yield running


@pytest.fixture(scope="module")
def good(washers: Path) -> list[Path]:
    return sorted((washers / "test" / "good").iterdir())


def fault(response: Any, status: int, words: str) -> None:
    """One sentence with a request id, the headers of every answer, and no traceback."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert re.search(words, body["error"]), body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    for name, value in HEADERS.items():
        assert response.headers[name] == value


# ---- judging


def test_a_picture_is_judged_recorded_and_shown(line: Running, good: list[Path]) -> None:
    response = line.send(("folder/part.png", good[0].read_bytes()), part_id="A-0815", station="press 3")
    assert response.status_code == 200
    (result,) = response.json()["results"]
    assert (result["picture"], result["part_id"], result["station"]) == ("part.png", "A-0815", "press 3")
    assert result["model"] == "part"
    assert line.http.get(f"/v1/results/{result['id']}").json() == result
    stored = verdicts.get(line.service.store, result["id"])
    assert stored is not None
    assert stored.manifest == shelves.manifest_hash(line.service.shelf.get().folder)
    assert stored.kept
    listed = line.http.get("/v1/results", params={"part_id": "A-0815"}).json()
    assert listed["results"] == [result]
    with Image.open(io.BytesIO(line.http.get(f"/v1/results/{result['id']}/overlay.png").content)) as drawn:
        assert (drawn.width, drawn.height) == (2 * 64 + 4, 64)
    shown = line.http.get(f"/v1/results/{result['id']}/picture.png")
    with Image.open(io.BytesIO(shown.content)) as sent, Image.open(good[0]) as own:
        assert np.array_equal(np.asarray(sent), np.asarray(own.convert("RGB")))


def test_several_pictures_in_their_order(line: Running, good: list[Path]) -> None:
    response = line.send(*[(path.name, path.read_bytes()) for path in good[:3]])
    results = response.json()["results"]
    assert [each["picture"] for each in results] == [path.name for path in good[:3]]
    assert [each["id"] for each in results] == sorted(each["id"] for each in results)


def test_one_that_is_no_picture_is_not_ok_and_costs_no_other(line: Running, good: list[Path]) -> None:
    response = line.send(("a.png", good[0].read_bytes()), ("b.png", b"no picture"))
    assert response.status_code == 422
    judged, other = response.json()["results"]
    assert judged["verdict"] in verdicts.WORDS
    assert set(other) == {"picture", "error"}
    assert verdicts.get(line.service.store, judged["id"]) is not None


def test_a_picture_that_was_not_judged_is_kept_with_its_reason(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as line:
        for _ in range(2):  # the same key is kept once, and counted as often as it was sent
            answer = line.http.post(
                "/v1/inspect",
                files=[("files", ("b.png", b"no picture")), ("files", ("a.png", picture()))],
                data={"part_id": "A-1", "station": "press 1"},
                headers={"Idempotency-Key": "k"},
            )
            assert answer.status_code == 422
        (kept,) = line.http.get("/v1/not-judged", params={"part_id": "A-1", "named": "b."}).json()["pictures"]
        told = answer.json()["results"][0]["error"]
        assert (kept["picture"], kept["station"], kept["source"], kept["reason"].lower()) == (
            "b.png",
            "press 1",
            "http",
            told.lower(),
        )
        assert line.http.get("/v1/not-judged", params={"station": "press 2"}).json() == {"pictures": [], "cursor": None}
        assert line.service.figures.errors.labels("part", "http")._value.get() == 2


def test_an_empty_file_is_not_ok_and_costs_no_other(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as line:
        answer = line.send(("a.png", picture()), ("b.png", b""))
        assert answer.status_code == 422
        assert [next(iter(each.keys() & {"verdict", "error"})) for each in answer.json()["results"]] == ["verdict", "error"]
        assert "empty (0 bytes)" in line.judge(b"").json()["results"][0]["error"]
        assert [each.picture for each in not_judged.listed(line.service.store).pictures] == ["", "b.png"]


def test_one_key_of_several_pictures_hides_none_that_was_not_judged(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as line:
        for data in (b"one", b"two", b"two"):
            assert line.judge(data, headers={"Idempotency-Key": "always"}).status_code == 422
        assert not_judged.count(line.service.store) == 2


def test_a_failing_driver_stops_neither_the_watcher_nor_an_answer(
    exports: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A station that no database takes: its text is no Unicode."""
    folder = tmp_path / "camera"
    folder.mkdir()
    with served(exports["onnx"], tmp_path / "r.db", watch=folder, station="\udcff") as line:
        (folder / "a.png").write_bytes(b"no picture")
        wait(lambda: len(line.service.not_judged) == 1)
        (folder / "b.png").write_bytes(b"no picture")
        wait(lambda: len(line.service.not_judged) == 2)
        assert line.judge(b"no picture").status_code == 422
    assert "could not be recorded" in caplog.text


def test_a_store_that_is_away_costs_no_answer_of_what_was_not_judged(
    exports: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as line:
        with line.service.store.writing() as connection:
            connection.execute(sa.text("ALTER TABLE not_judged RENAME TO elsewhere"))
        assert line.send(("b.png", b"no picture")).status_code == 422
        assert "could not be recorded" in caplog.text


def test_the_same_key_is_judged_once(line: Running, good: list[Path]) -> None:
    data = good[1].read_bytes()
    first = line.judge(data, headers={"Idempotency-Key": "k1"})
    assert line.judge(data, headers={"Idempotency-Key": "k1"}).json() == first.json()
    fault(line.judge(picture(), headers={"Idempotency-Key": "k1"}), 409, "used for another picture")
    before = verdicts.count(line.service.store)
    for given, words in (({"part_id": "B"}, "another part_id"), ({"station": "press 4"}, "another station")):
        fault(line.judge(data, headers={"Idempotency-Key": "k1"}, **given), 409, words)
    assert verdicts.count(line.service.store) == before
    both = line.send(("a", data), ("b", picture()), headers={"Idempotency-Key": "k2"}).json()
    assert line.send(("a", data), ("b", picture()), headers={"Idempotency-Key": "k2"}).json() == both


def test_one_key_sent_at_once_is_one_row(line: Running, good: list[Path]) -> None:
    before, found = verdicts.count(line.service.store), []
    send = lambda: found.append(line.judge(good[2].read_bytes(), headers={"Idempotency-Key": "once"}))  # noqa: E731
    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({response.json()["results"][0]["id"] for response in found}) == 1
    assert verdicts.count(line.service.store) == before + 1


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_http_folder_and_command_line_judge_alike(
    exports: dict[str, Path], washers: Path, tmp_path: Path, backend: str
) -> None:
    """The same pictures, three ways into the store: verdict, score, p-value and regions to the last bit."""
    from click.testing import CliRunner

    from flawforge.cli import main

    paths = sorted(washers.glob("test/*/*.png"))
    assert len(paths) >= 10
    folder = tmp_path / "camera"
    folder.mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, folder / f"{number:02d}.png")
    (folder / "other.png").write_bytes(picture())  # unlike every good part
    count = len(paths) + 1
    done = CliRunner().invoke(main, ["inspect", str(exports[backend]), str(folder), "--db", str(tmp_path / "cli.db")])
    assert done.exit_code == 0, done.output
    with served(exports[backend], tmp_path / "line.db", watch=folder) as running:
        for path in sorted(folder.iterdir()):
            assert running.send((path.name, path.read_bytes())).status_code == 200
        wait(lambda: verdicts.count(running.service.store) == 2 * count)
        recorded = list(verdicts.each(running.service.store))
    with open_store(tmp_path / "cli.db") as store:
        recorded += verdicts.each(store)
    seen = {
        source: {
            each.picture: (each.sha256, each.verdict, each.score, each.p_value, each.threshold, each.valid, each.regions)
            for each in recorded
            if each.source == source
        }
        for source in verdicts.SOURCES
    }
    assert seen["http"] == seen["watch"] == seen["inspect"]
    assert len(seen["http"]) == count
    assert len({each[1] for each in seen["http"].values()}) > 1  # not all alike
    assert {each.manifest for each in recorded} == {shelves.manifest_hash(exports[backend])}


def wait(until: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_watched_folder_is_judged_once_also_after_a_restart(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1))
    (folder / "b.png").write_bytes(b"no picture")
    for count in (1, 2):
        with served(exports["onnx"], tmp_path / "r.db", watch=folder, station="s") as running:
            errors = running.service.figures.errors.labels("part", "watch")
            wait(lambda count=count: verdicts.count(running.service.store) == count)
            wait(lambda errors=errors: errors._value.get() == 1)
            if count == 1:
                (folder / "c.png").write_bytes(picture(2))
                wait(lambda: verdicts.count(running.service.store) == 2)
    with open_store(tmp_path / "r.db") as store:
        assert [each.picture for each in verdicts.each(store)] == ["c.png", "a.png"]
        (missed,) = not_judged.listed(store).pictures  # once, though it was tried twice
    assert (missed.picture, missed.source, missed.station, missed.model) == ("b.png", "watch", "s", "part")


# ---- what is refused


def test_an_unknown_model(line: Running) -> None:
    fault(line.judge(picture(), model="other"), 404, "There is no model 'other' here; known are part")


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"x", "text/plain", 415, "type is text/plain"),
        (b"x", "", 415, "not given"),
        (b"x", "multipart/form-data", 400, "no multipart/form-data that can be read"),
        (b"x", "multipart/form-data; boundary=b", 400, "Invalid multipart data"),
        (b"--b\r\n", "multipart/form-data; boundary=b", 400, "ends before its closing boundary"),
        (b"", "multipart/form-data; boundary=b", 400, "ends before its closing boundary"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 422, "No picture was sent"),
        (b"\r\nx--b--", "multipart/form-data; boundary=b", 400, "closing boundary"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400, "name"),
        (
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            422,
            "field x is unknown",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\npart.png\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            422,
            "The field files was sent as text and must be a file; with curl: -F files=@part.png",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="x"; filename="y"\r\n\r\ny\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            422,
            "field x holds a file",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename=""\r\n\r\n\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            422,
            "No picture was sent",
        ),
        (b"--b\r\n\xff\xfe\x00: \x00\r\n\r\n", "multipart/form-data; boundary=b", 400, "no multipart"),
    ],
)
def test_malformed_bodies(line: Running, content: bytes, kind: str, status: int, words: str) -> None:
    headers = {"content-type": kind} if kind else {}
    fault(line.http.post("/v1/inspect", content=content, headers=headers), status, words)


def test_a_form_that_is_cut_is_refused_wherever_it_is_cut(exports: dict[str, Path], tmp_path: Path) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    field = b'\r\n--b\r\nContent-Disposition: form-data; name="part_id"\r\n\r\nA-0815'
    form, kind = head + picture(size=8) + field + b"\r\n--b--", {"content-type": "multipart/form-data; boundary=b"}
    with served(exports["onnx"], tmp_path / "r.db") as running:

        def post(content: Any) -> Any:
            return running.http.post("/v1/inspect", content=content, headers=kind)

        for end in (*range(0, len(head), 9), *range(len(form) - len(field) - 9, len(form))):
            fault(post(form[:end]), 400, "ends before its closing boundary")
        for after in (b"x", b"\r\nx", b"\r\n--b--", field):
            fault(post(form + after), 400, "follow the closing boundary")
            fault(post(iter((form, b"\r\n", after))), 400, "follow the closing boundary")
        assert verdicts.count(running.service.store) == 0
        assert not not_judged.listed(running.service.store).pictures
        wait(lambda: running.service.bytes_held == running.service.requests_held == 0)
        for whole in (form, form + b"\r\n", form + b" \r\n\t\r\n", iter((form[:-3], form[-3:-1], b"-", b"\r", b"\n"))):
            (result,) = post(whole).json()["results"]
            assert result["part_id"] == "A-0815"
        alone = iter(form[place : place + 1] for place in range(len(form)))  # every boundary in pieces
        assert post(alone).json()["results"][0]["part_id"] == "A-0815"


def test_names_and_part_ids_are_labels(line: Running) -> None:
    data, html = picture(), "<script>alert(1)</script>"
    for name, kept in (
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.png", "a.png"),
        ("/abs/..", ".."),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("n" * 500, "n" * 200),
        (f"{html}.png", "script>.png"),
    ):
        response = line.send((name, data), part_id=html)
        (result,) = response.json()["results"]
        assert result["picture"] == kept
        assert result["part_id"] == html  # as it is, in JSON that no browser takes for a page
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"
        stored = verdicts.get(line.service.store, result["id"])
        assert stored is not None
        assert stored.kept == f"pictures/{stored.sha256[:2]}/{stored.sha256}.png"
    fault(line.judge(data, part_id="a\nb"), 422, "cannot be printed")
    fault(line.send(("a", data), part_id="x" * 300), 422, "part_id has 300 characters")
    fault(line.judge(data, headers={"Idempotency-Key": "k" * 101}), 422, "idempotency-key")


def test_a_decompression_bomb_costs_no_memory(exports: dict[str, Path], tmp_path: Path) -> None:
    image = Image.new("L", (10_500, 10_500))
    data = io.BytesIO()
    image.save(data, "PNG")
    assert len(data.getvalue()) < 1 << 20
    with served(exports["onnx"], tmp_path / "r.db") as running:
        response = running.judge(data.getvalue())
        assert response.status_code == 422
        assert "pixels" in response.json()["results"][0]["error"]
        assert verdicts.count(running.service.store) == 0


def test_limits_on_bytes_and_count(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", most_bytes=50_000, most_files=3) as running:
        fault(running.judge(b"x" * 50_001), 413, "larger than 50,000 bytes")
        pieces = (b"x" * 10_000 for _ in range(10))  # chunked: no length is said beforehand
        fault(running.http.post("/v1/inspect", content=pieces, headers=PNG), 413, "larger than 50,000 bytes")
        fault(running.send(*[("a", b"x")] * 4), 413, "at most 3 pictures")
        big = running.http.post("/v1/reviews", content=b"x" * (9 << 20), headers={"content-type": "application/json"})
        fault(big, 413, "larger than 8,388,608 bytes")
        assert running.service.bytes_held == running.service.requests_held == 0
        assert running.judge(picture(size=32)).status_code in (200, 422)


def test_a_slow_body_is_given_up(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", body_seconds=0.5) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
            head = b"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
            slow.sendall(head + b"x")
            start = time.monotonic()
            answer = slow.recv(4096)
        assert time.monotonic() - start < 10
        assert answer.startswith(b"HTTP/1.1 408 ")
        wait(lambda: running.service.requests_held == 0)
        assert running.judge(picture()).status_code == 200


HALF = b"GET /v1/health HTTP/1.1\r\nHost: lo"


def connected(running: Running, sent: bytes = b"") -> socket.socket:
    one = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    one.sendall(sent)
    return one


def test_a_request_must_begin_and_its_head_must_come_in_time(exports: dict[str, Path], tmp_path: Path) -> None:
    bounds = Bounds(most=50, head_seconds=0.5)
    with served(exports["onnx"], tmp_path / "r.db", bounds=bounds) as running, contextlib.ExitStack() as stack:
        silent, half, again = (stack.enter_context(connected(running, sent)) for sent in (b"", HALF, b""))
        again.sendall(HALF + b"calhost\r\n\r\n")  # one request that is whole, and half of the next
        assert again.recv(4096).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < start + 10:  # a byte now and then does not help
                again.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - start < 5
        assert (silent.recv(1), half.recv(1)) == (b"", b"")
        slow = stack.enter_context(connected(running))  # its head is there in time, and a body may take longer
        data = picture()
        head = (
            f"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        slow.sendall(head.encode() + data[:10])
        time.sleep(1.5)
        slow.sendall(data[10:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_gives_its_place_to_a_new_one(
    exports: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(exports["onnx"], tmp_path / "r.db", bounds=Bounds(most=5)) as running, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(running, HALF)) for _ in range(20)]
        assert running.http.get("/v1/health").status_code == 200
        assert len(running.server.server_state.connections) <= 5
        with contextlib.suppress(ConnectionError):
            assert held[0].recv(1) == b""  # the oldest went first
        streams = [stack.enter_context(running.http.stream("GET", "/events")) for _ in range(5)]  # none of these is idle
        assert {each.status_code for each in streams} == {200}
        with httpx.Client() as other:
            refused = other.get(f"http://127.0.0.1:{running.port}/v1/health")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert refused.json() == {"error": "As many connections as the service takes are busy; ask again in 2 s."}
        streams[0].close()
        wait(lambda: len(running.server.server_state.connections) < 5)
        assert running.http.get("/v1/health").status_code == 200
    assert caplog.text.count("connections full") == 1  # once a period


@pytest.mark.parametrize(("files", "most"), [(256, 128), (1024, 512), (1 << 20, 1000), (1, 1)])
def test_connections_leave_files_to_the_rest(files: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "open_files", lambda: files)
    bounds = Bounds()
    assert bounds.most == most
    assert bounds.most + bounds.backlog <= max(2, 3 * files // 4)


def test_bodies_of_all_requests_have_a_budget(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", budget=20_000) as running:
        response = running.judge(b"x" * 30_000)
        fault(response, 503, "too much memory")
        assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Host": "evil.example"}, "a name that this service does not have"),
        ({"Host": "localhost@evil.example"}, "a name that this service does not have"),
        ({"Origin": "http://evil.example"}, "another site's page"),
        ({"Origin": "null"}, "another site's page"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site's page"),
    ],
)
def test_another_sites_page_is_kept_out(
    exports: dict[str, Path], tmp_path: Path, headers: dict[str, str], words: str
) -> None:
    with served(exports["onnx"], tmp_path / "r.db", hosts=("localhost", "127.0.0.1")) as running:
        fault(running.judge(picture(), headers=headers), 403, words)
        assert verdicts.count(running.service.store) == 0


# ---- the queue


class Slow:
    """A network that waits until it may go on."""

    def __init__(self, network: Any) -> None:
        self.network, self.go, self.placed = network, threading.Event(), getattr(network, "placed", False)

    def __call__(self, *inputs: Any) -> Any:
        assert self.go.wait(60)
        return self.network(*inputs)


def slowed(model: Path) -> tuple[shelves.Shelf, Slow]:
    kept = shelves.open_shelf({"part": model}, flawforge_runtime.load)
    slow = Slow(kept.get().inspector.network)
    inspector = dataclasses.replace(kept.get().inspector, network=slow)
    kept._models["part"] = dataclasses.replace(kept.get(), inspector=inspector)
    return kept, slow


def test_a_full_queue_says_when_to_ask_again(exports: dict[str, Path], tmp_path: Path) -> None:
    kept, slow = slowed(exports["onnx"])
    with open_store(tmp_path / "r.db") as store, serving(kept, store, settings=Settings(places=3)) as running:
        fault(running.send(*[("a", picture())] * 4), 503, "0 of 3 places")
        found: list[Any] = []
        threads = [threading.Thread(target=lambda n=n: found.append(running.judge(picture(n)))) for n in range(3)]
        for thread in threads:
            thread.start()
        wait(lambda: running.service.lines["part"].taken == 3)
        response = running.judge(picture(9))
        fault(response, 503, "ask again in")
        assert int(response.headers["retry-after"]) >= 1
        ready = running.http.get("/v1/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "flawforge_queue_taken" in running.http.get("/v1/metrics").text
        slow.go.set()
        for thread in threads:
            thread.join()
        assert [response.status_code for response in found] == [200] * 3
        assert running.judge(picture(9)).status_code == 200
        assert verdicts.count(store) == 4


def test_a_stop_leaves_a_watched_picture_for_the_next_start(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a place in the queue when the service stops: nothing is wrong with it, so nothing is recorded."""
    folder, full = tmp_path / "camera", threading.Event()
    folder.mkdir()
    kept, slow = slowed(exports["onnx"])
    with open_store(tmp_path / "r.db") as store:
        with serving(kept, store, settings=Settings(places=1)) as running:
            asked = threading.Thread(target=running.judge, args=(picture(1),))
            asked.start()
            line = running.service.lines["part"]
            wait(lambda: line.taken == 1)
            submit = line.submit

            def told(jobs: Any) -> None:
                try:
                    submit(jobs)
                except Full:
                    full.set()
                    raise

            monkeypatch.setattr(line, "submit", told)
            (folder / "a.png").write_bytes(picture(2))
            watcher = Watcher(running.service, folder, "part")
            watcher.start()
            assert full.wait(30)
            watcher.stop()
            slow.go.set()
            asked.join()
        assert (verdicts.count(store), not_judged.count(store)) == (1, 0)


def test_a_watch_begins_once_its_folder_is_there_wherever_the_process_stands(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A share may be mounted late, and the folder that a service was started in may be removed."""
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)
    with served(exports["onnx"], tmp_path / "r.db") as running:
        watcher = Watcher(running.service, Path("../camera"), "part")
        watcher.start()
        wait(lambda: any(record.message == "watch" for record in caplog.records))
        start.rmdir()
        (tmp_path / "camera").mkdir()
        (tmp_path / "camera" / "a.png").write_bytes(picture(2))
        wait(lambda: verdicts.count(running.service.store) == 1)
        watcher.stop()
    assert sum(record.message == "watch" for record in caplog.records) == 1


def test_a_stop_finishes_what_was_accepted(exports: dict[str, Path], tmp_path: Path) -> None:
    kept, slow = slowed(exports["onnx"])
    found: list[Any] = []
    with open_store(tmp_path / "r.db") as store:
        with serving(kept, store) as running:
            thread = threading.Thread(target=lambda: found.append(running.judge(picture())))
            thread.start()
            wait(lambda: running.service.lines["part"].taken == 1)
            running.server.should_exit = True
            wait(lambda: not running.service.running)
            slow.go.set()
            thread.join()
        assert found[0].status_code == 200
        assert verdicts.get(store, found[0].json()["results"][0]["id"]) is not None


def test_a_verdict_that_takes_too_long_is_found_under_its_key(exports: dict[str, Path], tmp_path: Path) -> None:
    kept, slow = slowed(exports["onnx"])
    with (
        open_store(tmp_path / "r.db") as store,
        serving(kept, store, settings=Settings(answer_seconds=0.3)) as running,
    ):
        fault(running.judge(picture(), headers={"Idempotency-Key": "k"}), 503, "took too long")
        slow.go.set()
        wait(lambda: running.service.lines["part"].taken == 0)
        assert running.judge(picture(), headers={"Idempotency-Key": "k"}).status_code == 200
        assert verdicts.count(store) == 1


def test_a_model_is_reloaded_while_it_judges(exports: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(exports["onnx"], model)
    with served(model, tmp_path / "r.db") as running:
        before = running.service.shelf.get().manifest
        found: list[int] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                found.append(running.judge(picture()).status_code)

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert running.http.post("/v1/models/part/reload").json()["changed"] is False
        inspector: Inspector = flawforge_runtime.load(model)
        assert inspector.calibration is not None
        assert inspector.content is not None
        from flawforge_runtime import bundle

        moved = inspector.with_calibration(inspector.calibration.moved(threshold=inspector.calibration.threshold * 2))
        assert moved.content is not None
        bundle.rewrite(model, moved.content)
        answer = running.http.post("/v1/models/part/reload").json()
        assert answer["changed"] is True
        after = running.judge(picture()).json()["results"][0]
        (model / "config.json").write_text("{}")
        fault(running.http.post("/v1/models/part/reload"), 422, "the old one stays")
        fault(running.http.post("/v1/models/other/reload"), 404, "no model 'other'")
        assert running.judge(picture()).json()["results"][0]["manifest"] == after["manifest"] != before
        assert after["threshold"] == pytest.approx(2 * inspector.calibration.threshold)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(found) == {200}


def test_whatever_keeps_one_model_from_being_opened_again_the_others_are(
    exports: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that was exported to another backend meanwhile is 422; on SIGHUP any fault at all stays with its model."""
    faulty: list[BaseException] = []

    def opener(folder: Path) -> Inspector:
        if faulty and folder.name == "first":
            raise faulty[0]
        return flawforge_runtime.load(folder, backend="onnx", threads=1)

    for name in ("first", "second"):
        shutil.copytree(exports["onnx"], tmp_path / name)
    shelf = shelves.open_shelf({name: tmp_path / name for name in ("first", "second")}, opener)
    with open_store(tmp_path / "r.db") as store, serving(shelf, store) as running:
        shutil.rmtree(tmp_path / "second")
        shutil.copytree(exports["openvino"], tmp_path / "second")
        fault(running.http.post("/v1/models/second/reload"), 422, "the old one stays: Backend onnx was asked for")
        assert running.judge(picture(), model="second").status_code == 200
        shutil.rmtree(tmp_path / "second")
        shutil.copytree(exports["onnx"], tmp_path / "second")
        faulty.append(MemoryError())
        caplog.clear()
        caplog.set_level("INFO", logger="flawforge.serve")
        reload_all(running.service)
        assert [record.message for record in caplog.records] == ["model not reloaded", "model reloaded"]
        assert running.judge(picture(), model="first").status_code == 200


def test_an_address_that_is_taken_is_one_sentence(exports: dict[str, Path], tmp_path: Path) -> None:
    """Before anything is watched or pruned."""
    from click.testing import CliRunner

    from flawforge.cli.app import main

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(main, ["serve", str(exports["onnx"]), "--db", str(tmp_path / "r.db"), "--port", str(port)])
    assert done.exit_code == 2, done.output
    assert f"No request can reach 127.0.0.1:{port} (Address already in use)" in done.stderr.splitlines()[-1]
    with pytest.raises(ConfigError, match=r"^No request can reach no\.such\.host\.invalid:80 \("):
        bound("no.such.host.invalid", 80, 8)


def test_every_address_of_a_name_is_listened_on_at_one_port() -> None:
    sockets = bound("localhost", 0, 8)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
        for each in sockets:
            socket.create_connection(each.getsockname()[:2], timeout=5).close()
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("what", ["removed", "moved away", "replaced"])
def test_no_verdict_goes_into_a_store_file_that_is_not_there(what: str, exports: dict[str, Path], tmp_path: Path) -> None:
    """SQLite keeps its open file and says nothing; with the last connection all of it would be gone."""
    path, aside = tmp_path / "r.db", tmp_path / "aside.db"
    with served(exports["onnx"], path) as running:
        assert running.judge(picture()).status_code == 200
        if what == "replaced":
            shutil.copy(path, aside)
            aside.replace(path)
        elif what == "removed":
            path.unlink()
        else:
            path.rename(aside)
        for _ in range(2):
            fault(running.judge(picture()), 503, "was removed or replaced while it was open; put the file back")
        ready = running.http.get("/v1/ready")
        assert ready.status_code == 503
        assert "was removed or replaced" in ready.json()["reasons"][0]
        assert path.exists() == (what == "replaced")  # nor was an empty one made
        if what == "moved away":
            aside.rename(path)
            assert running.judge(picture()).status_code == 200
            assert verdicts.count(running.service.store) == 2


def test_a_store_that_cannot_be_written_is_a_fault_of_the_service_until_it_can(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BUSY", 0.1)
    with served(exports["onnx"], tmp_path / "r.db") as running:
        other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        fault(running.judge(picture()), 503, "database is locked")
        ready = running.http.get("/v1/ready")
        assert ready.status_code == 503
        assert "a verdict could not be recorded: " in ready.json()["reasons"][0]
        assert running.http.get("/v1/health").status_code == 200
        other.execute("ROLLBACK")
        other.close()
        assert running.judge(picture()).status_code == 200
        assert running.http.get("/v1/ready").status_code == 200


def test_few_kept_pictures_are_decoded_at_a_time(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", keep="all") as running:
        number = running.judge(picture()).json()["results"][0]["id"]
        addresses = [f"/results/{number}/small.jpg", f"/v1/results/{number}/picture.png"]
        running.service.drawing = threading.Semaphore(0)
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda a=a: found.append(running.http.get(a).status_code))  # type: ignore[misc]
            for a in addresses
        ]
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        before = list(found)
        running.service.drawing.release()
        for thread in threads:
            thread.join()
        assert (before, found) == ([], [200, 200])


# ---- who may


@pytest.fixture(scope="module")
def guarded(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tokens = read_tokens(None, {"FLAWFORGE_TOKENS": TOKENS})
    with served(exports["onnx"], tmp_path_factory.mktemp("guarded") / "r.db", tokens) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


FORGED = (
    {},
    bearer("x" * 24),
    bearer(OPERATOR[:-1]),
    bearer(OPERATOR + "o"),
    bearer(OPERATOR.upper()),
    {"Authorization": f"Basic {base64.b64encode(b'anna:' + OPERATOR.encode()).decode()}"},
    {"Authorization": "Bearer"},
    {"Cookie": f"flawforge_session={OPERATOR}"},
)


def test_every_route_but_two_asks_for_a_token(guarded: Running) -> None:
    paths = guarded.http.get("/openapi.json").json()["paths"]
    open_ = {"/v1/health", "/v1/ready"}
    assert open_ < set(paths)
    for path, methods in paths.items():
        for method in methods:
            address = path.replace("{number}", "1").replace("{name}", "part")
            for headers in FORGED if path not in open_ else ():
                response = guarded.http.request(method, address, headers=headers)
                fault(response, 401, "send Authorization: Bearer TOKEN")
                assert response.headers["www-authenticate"] == "Bearer"
            if path in open_:
                assert guarded.http.request(method, address).status_code == 200
    assert verdicts.count(guarded.service.store) == 0


def test_roles(guarded: Running) -> None:
    assert guarded.http.post("/v1/models/part/reload", headers=bearer(ADMIN)).status_code == 200
    fault(guarded.http.post("/v1/models/part/reload", headers=bearer(OPERATOR)), 403, "anna has the role operator")
    assert guarded.http.get("/v1/session", headers=bearer(OPERATOR)).json() == {"name": "anna", "role": "operator"}


def test_a_session_of_the_page(guarded: Running) -> None:
    begun = guarded.http.post("/v1/session", headers=bearer(OPERATOR))
    cookie = begun.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert OPERATOR not in cookie
    assert guarded.http.get("/v1/session").json()["name"] == "anna"  # the client has the cookie now
    assert guarded.http.delete("/v1/session").status_code == 204
    guarded.http.cookies.set("flawforge_session", cookie.split("=")[1].split(";")[0])
    assert guarded.http.get("/v1/session").status_code == 401
    guarded.http.cookies.clear()


def test_tokens_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    tokens = read_tokens(file, {"FLAWFORGE_TOKENS": "left aside"})
    assert tokens.person(OPERATOR) == Person("anna", "operator")
    assert tokens.person(ADMIN) == Person("bert", "admin")
    assert tokens.person("") is None
    assert OPERATOR not in repr(tokens)
    assert read_tokens(None, {}).known == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("operator anna short", "The token of anna in .* has 5 characters, at least 16"),
        (f"boss anna {OPERATOR}", "Line 1 of .* is not of the form"),
        (f"\n\noperator {OPERATOR}", "Line 3 of .* is not of the form"),
        (f"operator a {OPERATOR}\nadmin b {OPERATOR}", "is there twice"),
        ("# nobody\n", "holds no token"),
    ],
)
def test_a_token_file_that_is_none(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ConfigError, match=sentence) as error:
        read_tokens(tmp_path / "tokens", {})
    assert OPERATOR not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(tmp_path / "none", {})


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(host, True) for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "line3", "")],
    ],
)
def test_without_tokens_only_loopback_is_bound(host: str, own: bool) -> None:
    assert is_loopback(host) == own
    if own:
        check_host(host, Tokens())
    else:
        with pytest.raises(ConfigError, match="lets other machines in, and there are no tokens"):
            check_host(host, Tokens())
    check_host(host, read_tokens(None, {"FLAWFORGE_TOKENS": TOKENS}))


# ---- results, reviews, state


def test_lists_with_filters_and_cursors(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as running:
        for number in range(5):
            running.judge(picture(number), station=f"s{number % 2}")
        page = running.http.get("/v1/results", params={"limit": 2}).json()
        found = [each["id"] for each in page["results"]]
        while page["cursor"]:
            page = running.http.get("/v1/results", params={"limit": 2, "cursor": page["cursor"]}).json()
            found += [each["id"] for each in page["results"]]
        assert found == sorted(found, reverse=True)
        assert len(found) == 5
        one = running.http.get("/v1/results", params={"station": "s1", "verdict": ["NG", "OK"]}).json()["results"]
        assert len(one) == 2
        times = {"since": "2999-01-01"}, {"until": "2000-01-01T00:00:00"}, {"since": "9999-12-31T23:59:59-23:59"}
        for params in times[:2]:
            assert running.http.get("/v1/results", params=params).json() == {"results": [], "cursor": None}
        fault(running.http.get("/v1/results", params=times[2]), 422, "outside of the years")
        (day,) = running.http.get("/v1/rates").json()["rates"]
        assert day["count"] == day["ok"] + day["review"] + day["ng"] == 5


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 501},
        {"cursor": "x"},
        {"verdict": "GOOD"},
        {"since": "x"},
        {"reviewed": "x"},
        {"part_id": "x" * 201},
    ],
)
def test_a_filter_outside_its_bounds(line: Running, params: dict[str, Any]) -> None:
    fault(line.http.get("/v1/results", params=params), 422, next(iter(params)))


@pytest.mark.parametrize(
    ("address", "query", "words"),
    [
        (
            "results",
            "modell=part",
            "The parameter modell is unknown; allowed are since, until, verdict, station, part_id, model,",
        ),
        ("results", "model=part&Station=s", "The parameter Station is unknown"),
        ("not-judged", "verdict=NG", "The parameter verdict is unknown"),
        ("queue", "%E2%80%AE=1", r"The parameter \\u202e is unknown; allowed are station, model, limit"),
        ("rates", "=1", "is unknown; allowed are since, until, station, model, step"),
        ("models", "model=part", "The parameter model is unknown; this address takes none"),
    ],
)
def test_a_parameter_that_nobody_reads_is_refused(line: Running, address: str, query: str, words: str) -> None:
    fault(line.http.get(f"/v1/{address}?{query}"), 422, words)


def test_a_misspelt_parameter_judges_nothing(line: Running) -> None:
    before = verdicts.count(line.service.store)
    fault(line.judge(picture(), partid="A"), 422, "The parameter partid is unknown; allowed are model, part_id, station")
    fault(line.judge(picture(), part_id="A", modell="zzz"), 422, "The parameter modell is unknown")
    fault(
        line.send(("a", picture()), partid="A"),
        422,
        "The field partid is unknown; allowed are files, model, part_id, station",
    )
    assert verdicts.count(line.service.store) == before
    for probe in ("health", "ready"):  # probes may add what they like
        assert line.http.get(f"/v1/{probe}?at=1").status_code == 200


@pytest.mark.parametrize("address", ["0", "-1", "x", "1/../../v1/models", str(2**63)])
def test_a_number_that_is_none(line: Running, address: str) -> None:
    for part in ("", "/overlay.png", "/picture.png", "/reviews"):
        response = line.http.get(f"/v1/results/{address}{part}")
        assert response.status_code in (404, 422)
    for part in ("", "/overlay.png", "/picture.png", "/reviews"):
        fault(line.http.get(f"/v1/results/{2**62}{part}"), 404, "There is no result")


def test_reviews_are_signed_and_added(guarded: Running) -> None:
    headers = bearer(OPERATOR)
    (result,) = guarded.judge(picture(), headers=headers).json()["results"]
    where = io.BytesIO()
    Image.new("L", (64, 64), 255).save(where, "PNG")
    body = {"result": result["id"], "verdict": "defect", "mask": base64.b64encode(where.getvalue()).decode(), "note": "here"}
    first = guarded.http.post("/v1/reviews", json=body, headers=headers)
    assert first.status_code == 201
    assert (first.json()["who"], first.json()["mask"]) == ("anna", True)
    second = guarded.http.post("/v1/reviews", json={"result": result["id"], "verdict": "good"}, headers=bearer(ADMIN))
    assert second.json()["who"] == "bert"
    listed = guarded.http.get(f"/v1/results/{result['id']}/reviews", headers=headers).json()["reviews"]
    assert [each["who"] for each in listed] == ["bert", "anna"]
    assert guarded.http.get(f"/v1/results/{result['id']}", headers=headers).json()["review"] == second.json()
    marked = reviews.of(guarded.service.store, result["id"])[1].marked((64, 64))
    assert marked is not None
    assert marked.all()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"result": 2**62, "verdict": "good"}, 404, "no result"),
        ({"result": 1, "verdict": "OK"}, 422, "verdict"),
        ({"result": 1, "verdict": "good", "who": "somebody else"}, 422, "who"),
        ({"result": 1, "verdict": "defect", "mask": "§"}, 422, "base64"),
        ({"result": 1, "verdict": "defect", "mask": "AAAA"}, 422, "no PNG"),
        ({"result": 1, "verdict": "defect", "boxes": [{"x": 0, "y": 0, "w": 1}]}, 422, "boxes"),
        ({"result": 1, "verdict": "defect", "boxes": [{"x": 0, "y": 0, "w": 999, "h": 1}]}, 422, "leaves the picture"),
        ({"result": "1; DROP TABLE reviews", "verdict": "good"}, 422, "result"),
        ([], 422, "."),
        ("x", 422, "."),
    ],
)
def test_a_review_that_cannot_be(line: Running, body: Any, status: int, words: str) -> None:
    if line.http.get("/v1/results/1").status_code == 404:
        line.judge(picture())
    fault(line.http.post("/v1/reviews", json=body), status, words)


@pytest.mark.parametrize(
    ("mode", "colour", "words"),
    [("L", 1, "marks nothing, its highest value is 1"), ("LA", (255, 0), "has transparent pixels")],
)
def test_a_mask_that_says_nothing_is_not_kept(line: Running, mode: str, colour: Any, words: str) -> None:
    (result,) = line.judge(picture()).json()["results"]
    mask = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(mask, "PNG")
    body = {"result": result["id"], "verdict": "defect", "mask": base64.b64encode(mask.getvalue()).decode()}
    fault(line.http.post("/v1/reviews", json=body), 422, words)
    assert line.http.get(f"/v1/results/{result['id']}/reviews").json() == {"reviews": []}


def test_json_that_is_none(line: Running) -> None:
    for content in (b"{", b"\xff", b"[" * 100_000):
        response = line.http.post("/v1/reviews", content=content, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422)
        assert set(response.json()) == {"error", "request_id"}


def test_the_queue_of_reviews(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", sample_every=1) as running:
        (result,) = running.judge(picture()).json()["results"]
        assert result["sampled"] is True
        assert [each["id"] for each in running.http.get("/v1/queue").json()["results"]] == [result["id"]]
        running.http.post("/v1/reviews", json={"result": result["id"], "verdict": "unsure"})
        assert running.http.get("/v1/queue").json()["results"] == []


def test_what_was_not_kept_cannot_be_shown(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", keep="none") as running:
        (result,) = running.judge(picture()).json()["results"]
        for name in ("overlay.png", "picture.png"):
            fault(running.http.get(f"/v1/results/{result['id']}/{name}"), 410, "not kept")
        assert not running.service.store.files.exists()  # type: ignore[union-attr]


def test_of_rejects_alone_a_part_for_review_is_kept_too(exports: dict[str, Path], good: list[Path], tmp_path: Path) -> None:
    served_ = shelves.open_shelf({"part": exports["onnx"]}, flawforge_runtime.load).get()
    limits = served_.inspector.calibration
    assert limits is not None
    for limit, word in ((-1e6, "NG"), (1e6, "REVIEW"), (1e6, "OK")):
        moved = limits.moved(review=limits.n / (limits.n + 1) if word == "REVIEW" else None, threshold=limit)
        inspector = served_.inspector.with_calibration(moved)
        highest = max(good, key=lambda path: inspector(path).pred_score)
        lowest = min(good, key=lambda path: inspector(path).pred_score)
        job = Job((lowest if word == "OK" else highest).read_bytes(), "ab" * 32, "part.png")
        with open_store(tmp_path / f"{word}.db", tmp_path / word) as store:
            one = dataclasses.replace(served_, inspector=inspector)
            decision, verdict = judging.judge(one, job, store, keep="rejects", sample_every=0, seed=0)
        assert decision.verdict == word
        assert (bool(verdict.kept), bool(verdict.overlay)) == (word != "OK",) * 2


def test_models_health_metrics(line: Running) -> None:
    (model,) = line.http.get("/v1/models").json()["models"]
    assert model["name"] == "part"
    assert str(line.service.shelf.get().folder) not in json.dumps(model)
    assert line.http.get("/v1/health").json() == {"status": "ok"}
    assert line.http.get("/v1/ready").json() == {"ready": True, "reasons": []}
    before = line.http.get("/v1/metrics").text
    line.judge(picture())
    count = re.compile(r'flawforge_verdicts_total{model="part",source="http",verdict="NG"} (\d+)')
    counted = lambda text: int((count.findall(text) or ["0"])[0])  # noqa: E731
    wait(lambda: counted(line.http.get("/v1/metrics").text) == counted(before) + 1)  # counted once it is answered


def test_addresses_and_methods_that_are_none(line: Running) -> None:
    fault(line.http.get("/v1/nothing"), 404, "no such address")
    fault(line.http.get("/v1/inspect"), 405, "does not take this method")
    fault(line.http.get("/docs"), 404, "no such address")


def test_a_request_id_is_taken_over_where_it_is_one(line: Running) -> None:
    assert line.http.get("/v1/health", headers={"X-Request-Id": "job-1.2_x"}).headers["x-request-id"] == "job-1.2_x"
    for trick in ("a b", "x" * 65, 'a"b'):
        assert line.http.get("/v1/health", headers={"X-Request-Id": trick}).headers["x-request-id"] != trick


def test_logs_are_json_with_the_requests_id(line: Running, caplog: pytest.LogCaptureFixture) -> None:
    from flawforge.serve.logs import LOGGER, _Lines

    caplog.set_level("INFO", logger=LOGGER.name)
    line.http.get("/v1/health", params={"x": "a\nb"}, headers={"X-Request-Id": "r1"})
    wait(lambda: caplog.records)
    said = json.loads(_Lines().format(caplog.records[-1]))
    assert (said["event"], said["path"], said["status"], said["method"]) == ("request", "/v1/health", 200, "GET")


# ---- the shelf


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = service.Sessions()
    assert sessions.person(sessions.begin(NOBODY_ASKED)) == NOBODY_ASKED
    monkeypatch.setattr(service, "SESSION", -1.0)
    assert sessions.person(sessions.begin(NOBODY_ASKED)) is None


def test_names_of_models(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = str(exports["onnx"])
    assert shelves.named((folder,)) == {"onnx": exports["onnx"]}
    assert shelves.named((f"washer={folder}", folder)) == {"washer": exports["onnx"], "onnx": exports["onnx"]}
    for models, sentence in (
        ((folder, folder), "Two models are called onnx"),
        ((f"a b={folder}",), "model name 'a b' was given"),
        ((f"../x={folder}",), "model name"),
        ((f"ä={folder}",), "model name"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            shelves.named(models)
    with pytest.raises(ConfigError, match="No model was given"):
        shelves.open_shelf({}, flawforge_runtime.load)
    with pytest.raises(ModelError):
        shelves.open_shelf({"x": tmp_path}, flawforge_runtime.load)


def test_a_model_without_thresholds_is_not_served(exports: dict[str, Path], tmp_path: Path) -> None:
    bundle.write(tmp_path / "model", dataclasses.replace(bundle.read(exports["onnx"]), calibration=None))
    with pytest.raises(CalibrationError, match="no thresholds"):
        shelves.open_shelf({"part": tmp_path / "model"}, flawforge_runtime.load)
