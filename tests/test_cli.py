"""The commands as a person types them: results, refusals in one sentence, and what survives a kill."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flawforge.cli import main
from flawforge.methods import METHODS

TINY = [text for key, value in vars(METHODS["draem"].tiny).items() for text in ("--set", f"{key}={value}")]
SMALL = ["--size", "64", "--method", "draem", *TINY]
FLAWFORGE = [sys.executable, "-m", "flawforge"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def refused(result: Result, *words: str) -> None:
    """Exit code 1 or 2, the last line of standard error is one sentence with these words, no traceback."""
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last
    assert "Traceback" not in result.stderr


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_main_job_end_to_end(washers: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    result = call("fit", washers, "-o", model, "--steps", 3, *SMALL)
    assert result.exit_code == 0, result.output
    for words in ("24 good pictures", "forecast: 3 steps", "NG (rejected) above score", "higher score = more anomalous"):
        assert words in result.output
    result = call("evaluate", model, washers, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "r.json").read_text())
    assert set(numbers) >= {"image", "pixel", "operating_point", "kinds", "counts", "model", "seconds"}
    assert (numbers["counts"]["good"], numbers["counts"]["defective"]) == (6, 8)
    assert call("report", model, "-o", tmp_path / "r.html").exit_code == 0
    assert "<html" in (tmp_path / "r.html").read_text()
    assert call("calibrate", model, washers / "test" / "good", "--false-alarm", 0.5).exit_code == 0


def test_inspect_rows_overlays_and_a_bad_file(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    good = washers / "test" / "good"
    result = call("inspect", tiny_model, good, "-o", tmp_path / "out", "--overlays")
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image_path"] for row in rows] == [str(path) for path in sorted(good.iterdir())]
    names = "image_path,pred_score,p_value,verdict,pred_label,threshold,regions,model_id,seconds,valid,notes,error"
    assert ",".join(rows[0]) == names
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 6
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    result = call("inspect", tiny_model, bad, next(good.iterdir()), "--format", "jsonl")
    refused(result, "1 of 2 files could not be judged")
    assert str(bad) in result.stderr
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first.keys() == {"image_path", "error"}
    assert second["verdict"] in ("OK", "REVIEW", "NG")
    refused(call("inspect", tiny_model, good, "-o", tmp_path / "out"), "exists already")
    refused(call("inspect", tiny_model, good, "--overlays"), "add -o")


def test_thresholds_and_rules_move_at_inspection_and_the_score_stays(washers: Path, tiny_model: Path) -> None:
    def rows(*options: object) -> list[dict[str, str]]:
        result = call("inspect", tiny_model, washers / "test" / "good", *options)
        assert result.exit_code == 0, result.output
        return list(csv.DictReader(result.stdout.splitlines()))

    own, low = rows(), rows("--threshold", -1e9)
    assert [row["pred_score"] for row in own] == [row["pred_score"] for row in low]
    assert {row["verdict"] for row in low} == {"NG"}
    assert {row["verdict"] for row in rows("--threshold", -1e9, "--min-area", 1e9)} == {"OK"}
    areas = [max(region["area"] for region in json.loads(row["regions"])) for row in low]
    for scale in (0.5, 2.0):  # mm a pixel: the same part passes or not as its largest region has the area or not
        limit = sorted(areas)[len(areas) // 2] * scale**2
        verdicts = [row["verdict"] for row in rows("--threshold", -1e9, "--min-area", limit, "--scale", scale)]
        assert verdicts == ["NG" if area * scale**2 >= limit else "OK" for area in areas]
    assert float(rows("--false-alarm", 0.6)[0]["threshold"]) <= float(own[0]["threshold"])
    refused(call("inspect", tiny_model, washers / "test" / "good", "--false-alarm", 0.001), "hold back 999 pictures")
    refused(call("inspect", tiny_model, washers / "test" / "good", "--scale", 0.1), "add --min-area")


def test_dry_run_forecasts_and_writes_nothing(washers: Path, tmp_path: Path) -> None:
    result = call("fit", washers, "-o", tmp_path / "m", "--dry-run", "--minutes", 10, *SMALL)
    assert result.exit_code == 0, result.output
    assert "GiB of memory" in result.output
    assert list(tmp_path.iterdir()) == []


def test_settings_file_and_flags(washers: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("batch = 2\nsegment_width = 4\nreconstruct_width = 4\nprecision = '32-true'\n")
    options = ("--steps", 2, "--size", 64, "--method", "draem", "--config", tmp_path / "s.toml", "--set", "batch=3")
    result = call("fit", washers, "-o", tmp_path / "m", *options)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "m" / "config.json").read_text())["settings"]
    assert (settings["batch"], settings["segment_width"]) == (3, 4)


def bad_data(kind: str, washers: Path, folder: Path) -> Path:
    """A DATA argument that is wrong in one way."""
    data = folder / "data"
    if kind == "missing":
        return data
    data.mkdir()
    good = sorted((washers / "train" / "good").iterdir())
    if kind == "text files":
        for i in range(3):
            (data / f"{i}.txt").write_text("not a picture")
    elif kind == "texts named png":
        for i in range(3):
            (data / f"{i}.png").write_text("not a picture")
    elif kind == "one picture":
        shutil.copy(good[0], data)
    elif kind == "csv with a missing file":
        table = data / "list.csv"
        table.write_text("image_path\n" + f"{good[0]}\n" + "gone.png\n")
        return table
    return data


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "data"),
        ("empty", "data"),
        ("text files", "data"),
        ("texts named png", "0 readable good pictures"),
        ("one picture", "at least 2"),
        ("csv with a missing file", "gone.png"),
    ],
)
def test_bad_data_gets_one_sentence_and_leaves_nothing(kind: str, words: str, washers: Path, tmp_path: Path) -> None:
    data = bad_data(kind, washers, tmp_path)
    refused(call("fit", data, "-o", tmp_path / "m", "--steps", 2, *SMALL), words)
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == []


def test_broken_pictures_among_good_ones_are_named_and_counted(washers: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(washers / "train" / "good", tmp_path / "data"))
    files = sorted(data.iterdir())
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:200])
    bomb(data / "zz_bomb.png")
    result = call("fit", data, "-o", tmp_path / "m", "--steps", 2, *SMALL)
    assert result.exit_code == 0, result.output
    for path in (*files[:2], data / "zz_bomb.png"):
        assert path.name in result.output
    assert "22 good pictures" in result.output


def bomb(path: Path) -> None:
    """A PNG whose header promises 30,000 x 30,000 pixels, in about a kilobyte."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_a_png_bomb_is_refused_by_a_stated_limit(tiny_model: Path, tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png")
    result = call("inspect", tiny_model, tmp_path / "bomb.png")
    refused(result, "could not be judged")
    assert "--max-pixels" in result.stderr
    assert "30" in result.stderr


def test_a_mask_of_another_size_is_refused(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(washers, tmp_path / "data"))
    mask = next((data / "ground_truth").rglob("*.png"))
    Image.new("L", (10, 10)).save(mask)
    model = shutil.copytree(tiny_model, tmp_path / "m")
    refused(call("evaluate", model, data, "--json", tmp_path / "r.json"), mask.name, "10 x 10")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "{data}", "-o", "{new}", "--method", "magic"], "allowed are auto"),
        (["fit", "{data}", "-o", "{new}", "--set", "bach=2"], "did you mean batch"),
        (["fit", "{data}", "-o", "{new}", "--set", "batch"], "KEY=VALUE"),
        (["fit", "{data}", "-o", "{new}", "--config", "none.toml"], "none.toml"),
        (["fit", "{data}", "-o", "{new}", "--steps", "1", "--minutes", "1"], "give one of the two"),
        (["fit", "{data}", "-o", "{new}", "--false-alarm", "0.01"], "hold back 99 pictures"),
        (["fit", "{data}", "-o", "{new}", "--devices", "2"], "only 1"),
        (["fit", "{data}", "-o", "{new}", "--resume"], "leave out --resume"),
        (["fit", "{data}", "-o", "{model}"], "exists already"),
        (["fit", "{data}"], "--out"),
        (["calibrate", "{model}", "{data}/none"], "none"),
        (["evaluate", "{data}", "{data}"], "not a flawforge model"),
        (["report", "{data}"], "not a flawforge model"),
        (["inspect", "{new}", "{data}"], "no such folder"),
        (["forge", "{data}", "-o", "{new}", "--forger", "magic"], "magic"),
        (["demo", "-o", "{model}"], "exists already"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: list[str], words: str, washers: Path, tiny_model: Path, tmp_path: Path
) -> None:
    names = {"data": washers, "model": tiny_model, "new": tmp_path / "new"}
    refused(call(*(each.format(**names) for each in arguments)), words)
    assert list(tmp_path.iterdir()) == []


def spawn(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FLAWFORGE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_two_kills_and_resumes_end_in_the_weights_of_an_uninterrupted_run(washers: Path, tmp_path: Path) -> None:
    fit = ("fit", washers, "--steps", 80, "--checkpoint-every", 0.1, *SMALL)
    finish(spawn(*fit, "-o", tmp_path / "whole"))
    checkpoint = tmp_path / "killed.fitting" / "checkpoint.safetensors"
    draw = random.Random()
    moments = [draw.uniform(0.05, 0.8) for _ in range(2)]
    resume: list[str] = []
    for moment in moments:
        process = spawn(*fit, "-o", tmp_path / "killed", *resume)
        wait_for(checkpoint, process)
        before = checkpoint.stat().st_mtime_ns
        while resume and checkpoint.stat().st_mtime_ns == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
        resume = ["--resume"]
    if not (tmp_path / "killed").exists():
        finish(spawn(*fit, "-o", tmp_path / "killed", "--resume"))
    assert sha(tmp_path / "killed") == sha(tmp_path / "whole"), f"killed {moments} s after a checkpoint"
    assert resume, "no kill came before the end"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(washers: Path, tmp_path: Path) -> None:
    process = spawn("fit", washers, "-o", tmp_path / "m", "--minutes", 5, "--checkpoint-every", 0.1, *SMALL)
    wait_for(tmp_path / "m.fitting" / "checkpoint.safetensors", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--resume" in output.strip().splitlines()[-1]
    assert "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["m.fitting"]


def test_a_full_disk_gets_one_sentence_and_nothing_half_written(washers: Path, tmp_path: Path) -> None:
    """A real file system of 200 KB in a mount name-space of its own; the tiny model needs more."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("unshare -rm is not permitted here")
    (tmp_path / "disk").mkdir()
    command = " ".join([*FLAWFORGE, "fit", str(washers), "-o", f"{tmp_path}/disk/m", "--steps", "3", *SMALL])
    disk = tmp_path / "disk"
    script = f"mount -t tmpfs -o size=200k none {disk} && {{ {command}; code=$?; echo LEFT:; ls -A {disk}; exit $code; }}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The disk is full" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout.split("LEFT:")[1].strip() == ""


def test_lists_and_doctor() -> None:
    for command, words in {"methods": "draem", "forgers": "cutpaste", "doctor": "torch"}.items():
        result = call(command)
        assert result.exit_code == 0, result.output
        assert words in result.output


def test_forge_writes_a_contact_sheet(washers: Path, tmp_path: Path) -> None:
    result = call("forge", washers, "-o", tmp_path / "f", "--forger", "perlin", "--count", 2)
    assert result.exit_code == 0, result.output
    assert any(path.suffix in (".jpg", ".png") and "perlin" in path.name for path in (tmp_path / "f").iterdir())
