"""Load on the service over loopback: more clients than its queue holds, for a minute or more.

    python benchmarks/service_load.py MODEL PICTURES [--seconds 60] [--clients 24] [--queue 16] [--db URL]

Three phases, each row of benchmarks/results/service.csv:

    bare   the runtime alone: picture after picture from memory, one thread, in a process of its own
    one    the service with one client: what HTTP, the hash, keeping the picture and the row add to a verdict
    load   the service with all clients; a client that is answered 503 waits and sends the same key again

Recorded are p50, p95 and p99 of the seconds of an answered request (of the one try that was answered), pictures per second,
rows that are lost or doubled (both must be 0), and the service's memory: the mean of the first and of the last quarter of
the phase. MODEL is an export, so that nothing imports torch.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from flawforge.store import verdicts
from flawforge.store.opening import open_store
from record import record

RESULTS = Path(__file__).parent / "results" / "service.csv"
BARE = """
import sys, time
from pathlib import Path
import flawforge_runtime
inspector = flawforge_runtime.load(sys.argv[1], threads=1)
data = [Path(path).read_bytes() for path in sys.argv[3:]]
for each in data[:3]:
    inspector(each)
end, number = time.perf_counter() + float(sys.argv[2]), 0
while time.perf_counter() < end:
    start = time.perf_counter()
    inspector(data[number % len(data)])
    print(time.perf_counter() - start)
    number += 1
"""


def bare(model: Path, paths: list[Path], seconds: float) -> list[float]:
    """Seconds of each judgement by the runtime alone."""
    command = [sys.executable, "-c", BARE, str(model), str(seconds), *map(str, paths)]
    return [float(line) for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


class Client(threading.Thread):
    """Sends picture after picture with a key of its own each, until the end."""

    def __init__(self, port: int, data: list[bytes], name: str, end: float) -> None:
        super().__init__()
        self.port, self.data, self.label, self.end = port, data, name, end
        self.seconds: list[float] = []
        self.keys: dict[str, int] = {}
        self.refused = self.failed = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        for number in itertools.count():
            key, body = f"{self.label}-{number}", self.data[number % len(self.data)]
            while True:
                if time.perf_counter() > self.end:
                    connection.close()
                    return
                start = time.perf_counter()
                headers = {"Content-Type": "image/png", "Idempotency-Key": key}
                try:
                    connection.request("POST", "/v1/inspect", body, headers)
                    answer = connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                    self.failed += 1
                    continue
                if answer.status == 200:
                    self.seconds.append(time.perf_counter() - start)
                    self.keys[f"{key}/0"] = json.loads(content)["results"][0]["id"]
                    break
                if answer.status != 503:
                    raise AssertionError((answer.status, content))
                self.refused += 1
                time.sleep(0.2)


Phase = tuple[dict[str, Any], dict[str, int], list[float]]  # the row, {key: id of the answer}, seconds of each answer
ROUNDS = 6  # of bare and one, by turns


def phase(name: str, port: int, pid: int, data: list[bytes], clients: int, seconds: float) -> Phase:
    """Run clients, and sample the service's memory."""
    end = time.perf_counter() + seconds
    running = [Client(port, data, f"{name}{number}", end) for number in range(clients)]
    process, memory = psutil.Process(pid), []
    for each in running:
        each.start()
    while any(each.is_alive() for each in running):
        memory.append(process.memory_info().rss)
        time.sleep(0.25)
    quarter = max(1, len(memory) // 4)
    times = [each for client in running for each in client.seconds]
    row = figures(name, times, seconds) | {
        "clients": clients,
        "refused_503": sum(each.refused for each in running),
        "failed": sum(each.failed for each in running),
        "memory_first_mb": statistics.mean(memory[:quarter]) / 1e6,
        "memory_last_mb": statistics.mean(memory[-quarter:]) / 1e6,
    }
    return row, {key: number for client in running for key, number in client.keys.items()}, times


def figures(name: str, times: list[float], seconds: float) -> dict[str, Any]:
    """Percentiles of seconds, and pictures per second."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    facts = {"p50_s": cuts[49], "p95_s": cuts[94], "p99_s": cuts[98]}
    return {"phase": name, "seconds": seconds, "answered": len(times), "per_second": len(times) / seconds, **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--db", default="")
    told = parser.parse_args()
    paths = sorted(told.pictures.rglob("*.png"))
    data = [path.read_bytes() for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        db = told.db or str(Path(folder) / "r.db")
        common = {
            "model": told.model.name,
            "pictures": told.pictures.name,
            "store": db.split(":")[0] if "://" in db else "sqlite",
            "queue": told.queue,
        }
        command = [sys.executable, "-m", "flawforge", "serve", str(told.model), "--port", "0", "--db", db, "--threads", "1"]
        command += ["--queue", str(told.queue), "--files", str(Path(folder) / "files")]
        with (Path(folder) / "log").open("w") as log:
            service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ)
        assert service.stdout is not None
        match = re.search(r":(\d+)", service.stdout.readline().partition("//")[2])
        assert match, (Path(folder) / "log").read_text()
        port = int(match[1])
        phase("warm", port, service.pid, data, 1, 5)
        # Alternated, so that what else the machine does meanwhile meets both alike.
        alone: list[float] = []
        ones: list[float] = []
        for each in range(ROUNDS):
            alone += bare(told.model, paths, told.seconds / ROUNDS)
            row, _, times = phase(f"one{each}-", port, service.pid, data, 1, told.seconds / ROUNDS)
            ones += times
        load, keys, _ = phase("load", port, service.pid, data, told.clients, told.seconds)
        service.send_signal(signal.SIGTERM)
        code = service.wait(120)
        with open_store(db, create=False) as store:
            recorded = [each for each in verdicts.each(store) if (each.key or "").startswith("load")]
        rows = {each.key: each.id for each in recorded}
        doubled = len(recorded) - len(rows)
        lost = sum(rows.get(key) != number for key, number in keys.items())
    one = row | figures("one", ones, told.seconds)
    alone_row = figures("bare", alone, told.seconds)
    share = one["p50_s"] / alone_row["p50_s"] - 1
    for row in (alone_row, one | {"overhead_p50": share}, load | {"lost": lost, "doubled": doubled, "exit_code": code}):
        record(RESULTS, common | row)
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
