# ruff: noqa: E402
"""Inspection on a real Ray cluster of this machine, and its faults: kills, memory, stores, disks, altered models."""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [
    pytest.mark.timeout(900),  # Ray starts a process for each worker, and a busy machine is slow at that
    pytest.mark.scale,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
ray = pytest.importorskip("ray", reason="the extra scale is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra scale is not installed")
fsspec = pytest.importorskip("fsspec", reason="the extra scale is not installed")

from flawforge.scale import cluster, inspecting, ledger, shipping
from flawforge.scale.fetching import Patience
from flawforge.types import ConfigError, DataError, ModelError
from flawforge_runtime import backends
from test_scale import expected, plain

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import scale

QUICK = Patience(tries=3, seconds=2.0, pause=0.05)
OURS = [sys.executable, "-c", "from flawforge.cli import main; main()"]


def harmful() -> None:
    """In every worker: opening bomb.png kills the process, as a kernel does that runs out of memory; huge.png asks for
    more memory than the process may have."""
    opened = Path.open

    def open_it(self: Path, *arguments: Any, **how: Any) -> Any:
        if self.name == "bomb.png":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "huge.png":
            limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (64 << 20), limits[1]))
            try:
                bytearray(1 << 30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
        return opened(self, *arguments, **how)

    Path.open = open_it  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """A cluster of two cores on this machine, which the tests of this module share."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 << 20,
        runtime_env={"worker_process_setup_hook": harmful},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def table(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 240 lines: every test picture again and again, so that each line must have its own row."""
    return write_table(tmp_path_factory.mktemp("table") / "list.csv", sorted((washers / "test").rglob("*.png")), 240)


def write_table(path: Path, pictures: list[Path], count: int) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path"])
        writer.writerows([str(pictures[number % len(pictures)])] for number in range(count))
    return path


def inspect(model: Path, sources: list[Any], out: Path, **how: Any) -> inspecting.Inspected:
    how = {"patience": QUICK, "workers": 2, **how}
    return inspecting.inspect(model, backends.load(model, threads=1), sources, out, **how)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows, part after part."""
    return [plain(row) for path in sorted((out / ledger.PARTS).iterdir()) for row in pq.read_table(path).to_pylist()]


def rows_alone(model: Path, table: Path) -> list[dict[str, Any]]:
    """Those of one process."""
    with table.open(newline="") as file:
        return expected(model, [Path(row["image_path"]) for row in csv.DictReader(file)])


def test_rows_are_those_of_one_process(two: None, exports: dict[str, Path], table: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    result = inspect(exports["onnx"], [table], tmp_path / "o", progress=lambda *at: done.append(at))
    assert rows_of(tmp_path / "o") == rows_alone(exports["onnx"], table)
    assert (result.count, result.before, result.workers) == (240, 0, 2)
    assert done[-1] == (240, 240)
    assert done == sorted(done)
    assert not (tmp_path / "o" / ledger.UNFINISHED).exists()
    assert result.as_dict()["count"] == 240
    assert "240 judged" in result.lines()[0]


def test_unreadable_pictures_and_those_beyond_memory_cost_their_own_rows_alone(
    two: None, exports: dict[str, Path], washers: Path, tmp_path: Path
) -> None:
    good = sorted((washers / "test").rglob("*.png"))[:6]
    for name in ("huge.png", "bomb.png"):
        (tmp_path / name).write_bytes(good[0].read_bytes())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = [*good[:2], tmp_path / "huge.png", good[2], tmp_path / "broken.png", good[3], tmp_path / "bomb.png", *good[4:]]
    said: list[str] = []
    result = inspect(exports["onnx"], paths, tmp_path / "o", part=4, say=said.append)
    rows = rows_of(tmp_path / "o")
    assert [row["image_path"] for row in rows] == list(map(str, paths))
    errors = {Path(str(row["image_path"])).name: row["error"] for row in rows if row["error"]}
    assert set(errors) == {"huge.png", "broken.png", "bomb.png"}
    assert "does not fit into memory" in errors["huge.png"]
    assert "the worker that judged it alone died" in errors["bomb.png"]
    judged = [row for row in rows if not row["error"]]
    assert judged == expected(exports["onnx"], good)
    assert result.totals["skipped"] == 3
    assert any("judged one by one" in line for line in said)


def test_a_worker_that_is_killed_in_the_middle_loses_and_doubles_nothing(
    two: None, exports: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(done: int, of: int) -> None:
        if 0 < done < of and not killed:
            workers = [each for each in psutil.Process().children(recursive=True) if "MapWorker" in " ".join(each.cmdline())]
            workers[0].kill()
            killed.append(workers[0].pid)

    inspect(exports["onnx"], [table], tmp_path / "o", part=8, progress=kill_one)
    assert killed
    assert rows_of(tmp_path / "o") == rows_alone(exports["onnx"], table)


def test_a_disk_that_is_full_ends_the_run_and_the_next_goes_on(
    two: None, exports: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: int, of: int) -> None:
        if done:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(DataError, match="free some space and run the same command again"):
            inspect(exports["onnx"], [table], tmp_path / "o", part=40, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "o" / ledger.UNFINISHED).exists()
    result = inspect(exports["onnx"], [table], tmp_path / "o")
    assert (result.parts, result.before) == (6, 1)
    assert rows_of(tmp_path / "o") == rows_alone(exports["onnx"], table)


def test_a_node_with_an_altered_model_judges_with_the_right_one(
    two: None, exports: dict[str, Path], washers: Path, tmp_path: Path
) -> None:
    packed, cache = shipping.pack(exports["onnx"]), tmp_path / "cache"
    graph = shipping.unpacked(packed, cache) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-7] + b"altered")
    paths = sorted((washers / "test").rglob("*.png"))[:2]
    inspect(exports["onnx"], paths, tmp_path / "o", cache=cache)
    assert rows_of(tmp_path / "o") == expected(exports["onnx"], paths)
    assert shipping.pack(graph.parent).digest == packed.digest


def test_a_node_that_cannot_keep_the_model_ends_the_run_in_a_sentence(
    two: None, exports: dict[str, Path], washers: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="exists"):
        inspect(exports["onnx"], [washers / "test"], tmp_path / "o", cache=tmp_path / "cache")


def test_a_node_that_does_not_see_the_pictures_is_named(two: None, tmp_path: Path) -> None:
    nodes = cluster.nodes(ray)
    cluster.check_nodes(ray, nodes, ["flawforge.scale.worker"], ["numpy"], str(tmp_path))
    with pytest.raises(ConfigError, match=r"does not see .*nowhere; put the pictures on a disk that all nodes share"):
        cluster.check_nodes(ray, nodes, [], [], str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"cannot work for flawforge \(ModuleNotFoundError: No module named 'nosuch'"):
        cluster.check_nodes(ray, nodes, ["nosuch"], [])


# --- an object store


class Store:
    """A local S3 server; `harm` is asked before each object is given: a status to answer with, or None."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.harm: Callable[[str], int | None] = lambda path: None
        self.app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, environ: dict[str, Any], start: Any) -> Any:
        status = self.harm(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "GET" else None
        if status is None:
            return self.app(environ, start)
        start(f"{status} Slow Down", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]


@pytest.fixture(scope="module")
def store(washers: Path) -> Iterator[Store]:
    pytest.importorskip("moto", reason="the extra scale-test is not installed")
    pytest.importorskip("s3fs", reason="the extra scale-test is not installed")
    told = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    store = Store()
    told["AWS_ENDPOINT_URL"] = store.url
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    s3 = fsspec.filesystem("s3")
    s3.mkdir("line1")
    for path in sorted((washers / "test").rglob("*.png"))[:8]:
        s3.pipe(f"line1/{path.parent.name}-{path.name}", path.read_bytes())
    yield store
    store.server.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def near_store(store: Store, exports: dict[str, Path]) -> Iterator[Store]:
    """With a cluster of its own, whose workers know the store's address."""
    ray.shutdown()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield store
    store.harm = lambda path: None
    ray.shutdown()


def test_a_store_that_answers_503_and_stalls_for_a_while_costs_nothing(
    near_store: Store, exports: dict[str, Path], washers: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    def busy(path: str) -> int | None:
        asked.append(path)
        if path.endswith(".png") and asked.count(path) == 1:
            if len(asked) % 2:
                return 503
            time.sleep(3)  # beyond the deadline of a try
        return None

    near_store.harm = busy
    result = inspect(exports["onnx"], ["s3://line1"], tmp_path / "o")
    assert (result.count, result.totals["skipped"]) == (8, 0)
    paths = sorted((washers / "test").rglob("*.png"))[:8]
    names = {f"s3://line1/{path.parent.name}-{path.name}": path for path in paths}
    alone = [
        {**row, "image_path": name}
        for name, row in zip(sorted(names), expected(exports["onnx"], [names[n] for n in sorted(names)]), strict=True)
    ]
    assert rows_of(tmp_path / "o") == alone


def test_a_store_that_stays_away_leaves_its_parts_for_the_next_run(
    near_store: Store, exports: dict[str, Path], tmp_path: Path
) -> None:
    last = sorted(fsspec.filesystem("s3").ls("line1"))[-1]
    near_store.harm = lambda path: 503 if path.endswith(Path(last).name) else None
    with pytest.raises(DataError, match=r"1 pictures are left for the next run: s3://.* could not be read in 3 tries"):
        inspect(exports["onnx"], ["s3://line1"], tmp_path / "o", part=1)
    near_store.harm = lambda path: None
    result = inspect(exports["onnx"], ["s3://line1"], tmp_path / "o", part=1)
    assert (result.before, result.parts, result.totals["skipped"]) == (7, 8, 0)
    names = [row["image_path"] for row in rows_of(tmp_path / "o")]
    assert names == sorted(set(names))
    assert len(names) == 8


# --- the command


def test_a_driver_that_is_killed_goes_on_exactly(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "list.csv", sorted((washers / "test").rglob("*.png")), 400)
    out = tmp_path / "o"
    command = [*OURS, "inspect", str(exports["onnx"]), str(table), "-o", str(out), "--ray", "local"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (out / ledger.LINES).exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    finished = len((out / ledger.LINES).read_text().splitlines())
    assert 0 < finished < 16
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is gone on with" in done.stderr
    assert "400 judged" in done.stdout
    assert rows_of(out) == rows_alone(exports["onnx"], table)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)


@pytest.mark.timeout(900)
def test_the_newcomers_page_as_printed(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    """Every command of docs/how-to/scale.md, on a cluster of its own; `ray stop` would end those of others too."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "scale.md").read_text()
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: its sockets lie there
    start = f"--port {port} --temp-dir {place} --include-dashboard false"
    for shown, ours in (("--port 6379", start), ("ray stop", "true"), ("--minutes 10", "--minutes 0.1 --size 64")):
        assert shown in commands
        commands = commands.replace(shown, ours)
    shutil.copytree(tiny_model, tmp_path / "washer")
    shutil.copytree(washers / "test", tmp_path / "pictures")
    (tmp_path / "products.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    for name in ("bottle", "tile"):
        shutil.copytree(washers / "train" / "good", tmp_path / name / "good")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = {"PATH": path, "RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_USAGE_STATS_ENABLED": "0"}
    told |= {"HOME": str(tmp_path)}  # where the token of this cluster lies, and of no other
    try:
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert rows_of(tmp_path / "judged-too") == rows_of(tmp_path / "judged")
        (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        program = [sys.executable, "-c", f"{code}\nprint(rows.num_rows)"]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert int(done.stdout) == len(list((washers / "test").rglob("*.png")))
        assert (tmp_path / "models" / "index.html").read_text().count("<td>finished</td>") == 2
        assert "learnt on 2 devices" in (tmp_path / "tile-trained" / "config.json").read_text()
    finally:
        for each in psutil.process_iter(["cmdline"]):
            if place in " ".join(each.info["cmdline"] or []):
                each.kill()
        shutil.rmtree(place, ignore_errors=True)


def test_the_benchmark_of_speed_records_every_way(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    script, out = Path(__file__).parents[1] / "benchmarks" / "scale.py", tmp_path / "scale.csv"
    command = [sys.executable, str(script), "speed", "--model", str(exports["onnx"]), "--out", str(out)]
    done = subprocess.run([*command, "--pictures", str(washers / "test")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["two_to_one"]) > 0
    assert float(row["one_to_plain"]) > 0
    assert min(float(row[f"{name}_seconds"]) for name in ("plain", "one", "two")) > 0


def test_the_benchmark_of_accuracy_takes_products_road(washers: Path, tmp_path: Path) -> None:
    """Two seeds of one method as tasks; then a second method, and what is there is not measured again."""
    script, out, data = Path(__file__).parents[1] / "benchmarks" / "accuracy.py", tmp_path / "a.csv", tmp_path / "data"
    data.mkdir()
    (data / "washers").symlink_to(washers)
    command = [sys.executable, str(script), "--ray", "local", "--minutes", "0.1", "--size", "64", "--out", str(out)]
    for more in (["--method", "patchstats", "--seeds", "0", "1"], ["--method", "patchstats", "padim"]):
        done = subprocess.run(
            [*command, *more], env=os.environ | {"FLAWFORGE_DATA": str(data)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "washers patchstats seed 0: already measured" in done.stdout
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["method"], row["seed"]) for row in rows) == [("padim", "0"), ("patchstats", "0"), ("patchstats", "1")]
    assert all(0 < float(row["image_auroc"]) <= 1 and row["machine"] and not row.get("error") for row in rows)


def test_every_point_of_the_cost_model_is_recorded(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    script, out = Path(__file__).parents[1] / "benchmarks" / "scale.py", tmp_path / "points.csv"
    command = [
        sys.executable,
        str(script),
        "points",
        "--model",
        str(exports["onnx"]),
        "--out",
        str(out),
        "--counts",
        "2",
        "4",
    ]
    command += [
        "--sides",
        "64",
        "128",
        "--good",
        "12",
        "20",
        "--products",
        "1",
        "2",
        "--rows",
        "4",
        "16",
        "--method",
        "patchstats",
    ]
    command += ["--pictures", str(washers / "test"), "--fits", str(washers / "train" / "good")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == [what for what in scale.AXES for _ in range(2)]
    assert all(float(row["seconds"]) > 0 and float(row["bytes_each"]) > 0 and row["commit"] for row in rows)
    assert all(float(row["peak_bytes"]) > 1e8 for row in rows if row["what"] in ("good", "fit side"))
