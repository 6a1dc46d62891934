"""The commands of the line as a person types them."""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import flawforge_runtime
from flawforge.cli import main
from flawforge.serve.shelf import open_shelf
from flawforge.serve.watching import Keeper
from flawforge.store import not_judged, reviews, verdicts
from flawforge.store.opening import open_store
from flawforge.types import ImageError
from flawforge_runtime.inspector import Inspector
from test_store import NOON, verdict


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A store with three verdicts of which the oldest is reviewed."""
    with open_store(tmp_path / "r.db") as store:
        group = [verdict(time=NOON + datetime.timedelta(days=day), station=f"s{day}") for day in range(3)]
        recorded = verdicts.record(store, group)
        reviews.add(store, recorded[0].id, "anna", "good")
    return tmp_path / "r.db"


def test_inspect_records_what_it_prints(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    done = call("inspect", exports["onnx"], washers / "test", "--db", tmp_path / "r.db", "--station=s", "--format=jsonl")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with open_store(tmp_path / "r.db", create=False) as store:
        recorded = list(verdicts.each(store))[::-1]
    assert [Path(row["image_path"]).name for row in rows] == [each.picture for each in recorded]
    for row, each in zip(rows, recorded, strict=True):
        assert (row["pred_score"], row["verdict"], row["p_value"]) == (each.score, each.verdict, each.p_value)
        assert (row["threshold"], row["model_id"]) == (each.threshold, each.model_id)
        assert (each.source, each.station, each.model, each.key) == ("inspect", "s", "onnx", None)
        assert Path(row["image_path"]).is_absolute()


def test_a_file_that_is_no_picture_gets_a_row_with_an_error_and_none_in_the_store(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    done = call("inspect", exports["onnx"], tmp_path / "a.png", "--db", tmp_path / "r.db")
    assert done.exit_code == 1
    assert "no PNG" in done.output
    with open_store(tmp_path / "r.db", create=False) as store:
        assert verdicts.count(store) == 0
        (missed,) = not_judged.listed(store).pictures
    assert (missed.source, missed.picture, missed.model) == ("inspect", "a.png", "onnx")
    assert "no PNG" in missed.reason
    assert missed.sha256 == hashlib.sha256(b"no picture").hexdigest()
    (tmp_path / "folder.png").mkdir()  # cannot be read
    with open_store(tmp_path / "r.db") as store:
        keeper = Keeper(store, open_shelf({"onnx": exports["onnx"]}, flawforge_runtime.load).get(), station="s")
        with pytest.raises(ImageError, match="cannot be read"):
            keeper(tmp_path / "folder.png")
        newest = not_judged.listed(store).pictures[0]
        watching = Keeper(store, open_shelf({"onnx": exports["onnx"]}, flawforge_runtime.load).get(), once=True)
        for _ in range(2):  # a restart tries it again
            with pytest.raises(ImageError, match="cannot be read"):
                watching(tmp_path / "folder.png")
        assert not_judged.count(store) == 3
    assert (newest.picture, newest.sha256, newest.station) == ("folder.png", "", "s")
    done = call("results", "export", tmp_path / "r.db", "--not-judged", "-o", tmp_path / "n.csv")
    assert "3 pictures that were not judged" in done.output


def test_a_file_that_was_recorded_gets_the_recorded_verdict_by_a_model_with_other_limits(
    exports: dict[str, Path], washers: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part.png"
    shutil.copy(min((washers / "test" / "good").iterdir()), part)

    def strict(folder: Path) -> Inspector:
        inspector = flawforge_runtime.load(folder)
        assert inspector.calibration is not None
        return inspector.with_calibration(inspector.calibration.moved(threshold=-1e9))

    told = []
    with open_store(tmp_path / "r.db") as store:
        for load in (flawforge_runtime.load, strict):
            keeper = Keeper(store, open_shelf({"onnx": exports["onnx"]}, load).get(), once=True)
            told.append(keeper(part))
        (recorded,) = verdicts.each(store)
        first, second = told
        assert (first.verdict, second.verdict) == (recorded.verdict, recorded.verdict)
        assert second.verdict != "NG"
        assert (second.pred_score, second.threshold) == (first.pred_score, first.threshold)
        assert second.notes[-1].startswith(f"judged before: this is result {recorded.id} of ")
        fresh = Keeper(store, open_shelf({"onnx": exports["onnx"]}, strict).get())  # without `once` it is another picture
        assert fresh(part).verdict == "NG"
        assert verdicts.count(store) == 2


def test_a_watch_waits_for_a_disk_that_takes_no_picture(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.png"
    shutil.copy(min((washers / "test" / "good").iterdir()), part)
    said: list[str] = []
    with open_store(tmp_path / "r.db", tmp_path / "files") as store:
        assert store.files is not None
        blocked = store.files / "pictures"
        blocked.parent.mkdir(exist_ok=True)
        blocked.write_bytes(b"")  # no folder can be made here

        def say(sentence: str) -> None:
            said.append(sentence)
            if blocked.is_file():
                blocked.unlink()

        keeper = Keeper(
            store, open_shelf({"onnx": exports["onnx"]}, flawforge_runtime.load).get(), keep="all", once=True, say=say
        )
        keeper(part)
        assert "part.png could not be kept (" in said[0]
        assert said[0].endswith("free some space. The picture waits until it can be.")
        assert said[1:] == ["The result store can be written again."]
        assert verdicts.count(store) == 1
        assert not_judged.count(store) == 0


def test_what_is_no_regular_file_is_not_judged_and_stops_no_other(
    exports: dict[str, Path], washers: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    os.mkfifo(folder / "a.png")  # nobody ever writes into it
    (folder / "b.png").symlink_to("/dev/zero")  # has no end
    shutil.copy(min((washers / "test" / "good").iterdir()), folder / "c.png")
    done = call("inspect", exports["onnx"], folder, "--db", tmp_path / "r.db", "--format=jsonl")
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in row for row in rows] == [True, True, False]
    with open_store(tmp_path / "r.db", create=False) as store:
        assert [each.picture for each in verdicts.each(store)] == ["c.png"]
        missed = not_judged.listed(store).pictures
    assert [each.picture for each in missed] == ["b.png", "a.png"]
    assert all("cannot be read (it is no regular file)" in each.reason for each in missed)


def test_inspect_without_a_store_that_can_be_used(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"no database" * 500)
    done = call("inspect", exports["onnx"], washers / "test" / "good", "--db", tmp_path / "r.db")
    assert done.exit_code == 1
    assert "cannot be used now (file is not a database)" in done.stderr
    assert "Traceback" not in done.output
    done = call("inspect", exports["onnx"], washers / "test" / "good", "--db", "mysql://h/n")
    assert done.exit_code == 2
    assert "kind mysql" in done.stderr


def test_a_store_and_a_cluster_exclude_each_other(exports: dict[str, Path], washers: Path, tmp_path: Path) -> None:
    arguments = ["inspect", str(exports["onnx"]), str(washers), "-o", str(tmp_path / "o"), "--db", str(tmp_path / "r.db")]
    done = CliRunner().invoke(main, [*arguments, "--ray", "local"])
    assert done.exit_code == 2
    assert "--db was given with --ray, which writes Parquet parts alone; leave one of the two out." in done.stderr
    assert not list(tmp_path.iterdir())


def test_results_export(db: Path, tmp_path: Path) -> None:
    assert call("results", "export", db, "-o", tmp_path / "out.csv").exit_code == 0
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["station"] for row in rows] == ["s2", "s1", "s0"]
    assert [row["review"] for row in rows] == ["", "", "good"]
    done = call("results", "export", db, "-o", tmp_path / "some.csv", "--since=2026-11-27", "--station=s1", "--json=-")
    assert json.loads(done.stdout)["count"] == 1
    for arguments, words in (
        (("-o", tmp_path / "out.csv"), "exists already"),
        (("-o", tmp_path / "out.xls"), "ends in .xls"),
        (("-o", tmp_path / "new.csv", "--since", "yesterday"), "--since was given as yesterday"),
    ):
        done = call("results", "export", db, *arguments)
        assert done.exit_code == 2
        assert words in done.stderr
    done = call("results", "export", tmp_path / "none.db", "-o", tmp_path / "new.csv")
    assert (done.exit_code, "There is no result store" in done.stderr) == (1, True)
    assert not (tmp_path / "none.db").exists()


def test_results_prune(db: Path) -> None:
    assert "give an age or a size" in call("results", "prune", db).stderr
    done = call("results", "prune", db, "--max-gb", 0)
    assert done.exit_code == 0
    assert "0 results deleted" in done.output  # no verdict keeps a file
    with open_store(db) as store:
        verdicts.record(store, [verdict(time=datetime.datetime.now(datetime.UTC))])
        old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=4000)
        verdicts.record(store, [verdict(time=old)])
    done = call("results", "prune", db, "--older-than", 3000)
    assert "1 results deleted" in done.output
    assert "0 results deleted" in call("results", "prune", db, "--older-than", 36525).output
    for days in ("800000", "1e12", "nan", "0"):  # before the first year, or no number of days
        done = call("results", "prune", db, "--older-than", days)
        assert (done.exit_code, "give a number above 0 to 36525" in done.stderr) == (2, True), days
    with open_store(db) as store:
        assert verdicts.count(store) == 4


def test_results_upgrade(db: Path, tmp_path: Path) -> None:
    assert "schema 0002 is the newest" in call("results", "upgrade", db).output
    assert "There is no result store" in call("results", "upgrade", tmp_path / "none.db").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "lets other machines in, and there are no tokens"),
        (("--max-files", "33"), "--max-files 33 is above --queue 32"),
        (("--watch", "nowhere"), "nowhere, which is no folder"),
        (("--db", "sqlite://"), "without a file"),
        (("--station", "a\nb"), "holds characters that cannot be printed"),
    ],
)
def test_serve_refuses_before_it_opens_a_port(
    exports: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLAWFORGE_TOKENS", raising=False)
    done = call("serve", exports["onnx"], *arguments)
    assert done.exit_code in (1, 2), done.output
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_serve_says_where_and_ends_on_ctrl_c(exports: dict[str, Path], tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "FLAWFORGE_TOKENS"}
    command = [
        sys.executable,
        "-m",
        "flawforge",
        "serve",
        f"part={exports['onnx']}",
        "--port",
        "0",
        "--db",
        tmp_path / "r.db",
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert running.stdout is not None
    assert running.stderr is not None
    timer = threading.Timer(100, running.kill)
    timer.start()
    said = running.stdout.readline()
    assert re.fullmatch(r"serving part at http://127\.0\.0\.1:\d+; no token is asked for, on this machine alone\n", said)
    running.send_signal(signal.SIGHUP)  # opens the models again
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    rest, log = running.communicate(timeout=60)
    timer.cancel()
    assert running.returncode == 0
    assert rest == "stopped; what was accepted is recorded\n"
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[0] == "started"
    assert events[-1] == "stopped"
    assert "model reloaded" in events


def test_without_the_extra_one_sentence_says_what_to_install(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "sqlalchemy" else find(name))
    done = call("results", "export", db, "-o", db.with_name("o.csv"))
    assert done.exit_code == 2
    assert "need sqlalchemy, not installed here; pip install 'flawforge[serve]'" in done.stderr


def test_help_of_the_line_loads_no_service() -> None:
    code = "import sys\nfrom flawforge.cli import main\ntry:\n    main(['serve', '--help'])\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'fastapi', 'sqlalchemy', 'uvicorn', 'torch', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_serving_loads_no_torch(exports: dict[str, Path]) -> None:
    """Judging, drawing and recording too."""
    code = f"""
import sys, tempfile
from pathlib import Path
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from serving import served, picture
with tempfile.TemporaryDirectory() as folder, served(Path({str(exports["onnx"])!r}), Path(folder) / "r.db") as running:
    assert running.judge(picture()).json()["results"][0]["verdict"] == "NG"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
