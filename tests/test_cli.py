"""The commands as a person types them: results, refusals in one sentence, and what survives a kill."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import hashlib
import json
import random
import re
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

from flawforge.cli import known, main
from flawforge.cli.learn import _calibrate
from flawforge.forge import FORGERS
from flawforge.judging.rows import COLUMNS
from flawforge.methods import METHODS
from flawforge.reporting.kept import kept
from flawforge_runtime import bundle
from flawforge_runtime.calibrate import calibrate

TINY = [text for key, value in vars(METHODS["draem"].tiny).items() for text in ("--set", f"{key}={value}")]
SMALL = ["--size", "64", "--method", "draem", *TINY]
GOOD = "test/good"
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
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        assert (tmp_path / "out" / row["overlay"]).is_file()
        assert (float(row["score_normalised"]) > 0.5) == (row["verdict"] == "NG")
        assert float(row["review_threshold"]) <= float(row["threshold"])
        assert datetime.datetime.fromisoformat(row["time"]).utcoffset() is not None
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 6
    assert result.stdout.startswith("6 judged: ")
    for words in ("results.csv", "6 overlays in", "index.html"):
        assert words in result.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<figure>") == len(list((tmp_path / "out" / "thumbnails").iterdir())) == 6
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    result = call("inspect", tiny_model, bad, next(good.iterdir()), "--format", "jsonl")
    refused(result, "1 of 2 files could not be judged")
    assert str(bad) in result.stderr
    assert re.search(r"^1 judged: . OK, . REVIEW, . NG.*, 1 could not be judged$", result.stderr, re.MULTILINE)
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
    assert {row["verdict"] for row in rows("--threshold", -1e9, "--max-count", 1000)} == {"OK"}
    assert {row["verdict"] for row in rows("--threshold", -1e9, "--min-area", 1e9)} == {"NG"}  # a rule that can reject none
    areas = [float(row["largest_area"]) for row in low]
    assert {(row["largest_area"], row["area_unit"]) for row in rows("--threshold", -1e9, "--scale", 0.5)} == {
        (f"{area / 4:.6g}", "mm2") for area in areas
    }
    for scale in (0.5, 2.0):  # mm a pixel: the same part passes or not as its largest region has the area or not
        limit = sorted(areas)[len(areas) // 2] * scale**2
        verdicts = [row["verdict"] for row in rows("--threshold", -1e9, "--min-area", limit, "--scale", scale)]
        assert verdicts == ["NG" if area * scale**2 >= limit else "OK" for area in areas]
    assert float(rows("--false-alarm", 0.6)[0]["threshold"]) <= float(own[0]["threshold"])
    refused(call("inspect", tiny_model, washers / "test" / "good", "--false-alarm", 0.001), "calibrate on 999 pictures")


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
        (["fit", "{data}", "-o", "{new}", "--method", "patchcor"], "did you mean patchcore"),
        (["fit", "{data}", "-o", "{new}", "--set", "bach=2"], "there is no setting 'bach'"),
        (["fit", "{data}", "-o", "{new}", "--method", "draem", "--set", "bach=2"], "did you mean batch"),
        (["fit", "{data}", "-o", "{new}", "--profile", "papr"], "there is no profile 'papr'"),
        (["fit", "{data}", "-o", "{new}", "--minutes", "0"], "'--minutes': 0 was given; give a number above 0"),
        (["fit", "{data}", "-o", "{new}", "--minutes", "ten"], "'--minutes': ten was given; give a number above 0"),
        (
            ["fit", "{data}", "-o", "{new}", "--false-alarm", "5"],
            "give a share between 0 and 1, such as 0.05, or a percentage",
        ),
        (["fit", "{data}", "-o", "{new}", "--roi", "none.png"], "There is no file or folder none.png"),
        (["fit", "{data}", "-o", "{new}", "--both-days"], "add --other-day FOLDER"),
        (["calibrate", "{model}", "{data}", "--other-day", "{new}"], "new"),
        (["pod", "{model}", "{data}", "--kind", "scrach"], "did you mean scratch"),
        (["pod", "{model}", "{data}/none"], "none"),
        (["drift", "{model}", "{data}/none"], "none"),
        (["inspect", "{model}", "--watch", "{new}"], "which is no folder"),
        (["inspect", "{model}", "{data}", "--json", "-"], "add -o FOLDER"),
        (["fit", "{data}", "-o", "{new}", "--set", "batch"], "KEY=VALUE"),
        (["fit", "{data}", "-o", "{new}", "--config", "none.toml"], "none.toml"),
        (["fit", "{data}", "-o", "{new}", "--steps", "1", "--minutes", "1"], "give one of the two"),
        (["fit", "{data}", "-o", "{new}", "--false-alarm", "0.01"], "calibrate on 99 pictures"),
        (["fit", "{data}", "-o", "{new}", "--devices", "0"], "'--devices': 0 was given; give a whole number from 1"),
        (["fit", "{data}", "-o", "{new}", "--devices", "2", "--method", "patchcore"], "method patchcore learns on one"),
        (["fit", "{data}", "-o", "{new}", "--devices", "3"], "cannot be cut into as many equal parts; give --set batch=9"),
        (["fit", "{data}", "-o", "{new}", "--devices", "2", "--folds", "2"], "learns on one: leave one of them out"),
        (["fit", "{data}", "-o", "{new}", "--resume", "--folds", "2"], "--folds and --resume cannot be combined"),
        (["fit", "{data}", "-o", "{new}", "--nodes", "2"], "NODE_RANK, MASTER_ADDR, MASTER_PORT are unset"),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(washers: Path, tmp_path: Path) -> None:
    process = spawn("fit", washers, "-o", tmp_path / "m", "--minutes", 5, "--checkpoint-every", 0.1, *SMALL)
    wait_for(tmp_path / "m.fitting" / "checkpoint.safetensors", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--resume" in output.strip().splitlines()[-1]
    assert "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["m.fitting"]


@pytest.mark.slow
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
        told = call(command, "--json", "-")
        assert words in json.dumps(json.loads(told.stdout))
        assert call(command, "--quiet").output == ""
    assert "as fast as float32" in call("doctor", "--speed").output


def test_forge_writes_a_contact_sheet(washers: Path, tmp_path: Path) -> None:
    result = call("forge", washers, "-o", tmp_path / "f", "--forger", "perlin", "--count", 2)
    assert result.exit_code == 0, result.output
    assert any(path.suffix in (".jpg", ".png") and "perlin" in path.name for path in (tmp_path / "f").iterdir())


def test_what_the_command_line_knows_without_torch_is_what_the_tables_say() -> None:
    assert list(known.METHODS) == list(METHODS)
    for name, method in METHODS.items():
        told = known.METHODS[name]
        assert (told.title, told.paper, told.profiles.split()) == (method.title, method.paper, list(method.profiles))
        for config in method.profiles.values():
            assert told.settings.split() == [field.name for field in dataclasses.fields(config)]
    assert {name: (kind.__doc__ or "").strip().splitlines()[0] for name, kind in FORGERS.items()} == known.FORGERS


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor"],
        ["methods"],
        ["forgers"],
        ["fit", "--help"],
        ["fit", "{data}", "-o", "{new}", "--method", "magic"],
        ["fit", "{data}/none", "-o", "{new}"],
        ["fit", "{data}", "-o", "{new}", "--set", "bach=2"],
        ["fit", "{data}", "-o", "{new}", "--minutes", "1", "--steps", "1"],
        ["fit", "{data}", "-o", "{new}", "--tolerate", "smoke"],
        ["fit", "{data}", "-o", "{new}", "--resume"],
        ["fit", "{data}", "-o", "{model}"],
        ["calibrate", "{model}", "{data}/none"],
        ["evaluate", "{model}", "{data}/none"],
        ["pod", "{model}", "{data}/none"],
        ["drift", "{model}", "{data}/none"],
        ["inspect", "{model}", "{data}/none.png.pdf"],
        ["inspect", "{data}", "{model}"],
        ["export", "{data}", "-o", "{new}", "--to", "onnx"],
        ["bench", "speed", "{model}", "{data}/none"],
        ["report", "{data}"],
        ["forge", "{data}", "-o", "{new}", "--forger", "magic"],
        ["demo", "-o", "{model}"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_mistake_is_answered_before_anything_heavy_is_imported(
    arguments: list[str], washers: Path, tiny_model: Path, tmp_path: Path
) -> None:
    names = {"data": washers, "model": tiny_model, "new": tmp_path / "new"}
    words = [each.format(**names) for each in arguments]
    code = (
        f"import sys\nfrom flawforge.cli import main\ntry:\n    main({words!r})\nexcept SystemExit as end:\n"
        "    print(end.code, *sorted({'torch', 'scipy', 'sklearn', 'lightning_fabric'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    code, *heavy = done.stdout.strip().splitlines()[-1].split()
    assert heavy == []
    assert code in (("0",) if len(arguments) == 1 or "--help" in arguments else ("1", "2")), done.stderr


def test_exit_codes_for_rejects_and_drift(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    good = washers / GOOD
    low, high = ("--threshold", -1e9), ("--threshold", 1e9)
    assert call("inspect", tiny_model, good, *low).exit_code == 0
    assert call("inspect", tiny_model, good, *low, "--fail-on", "ng").exit_code == 3
    assert call("inspect", tiny_model, good, *high, "--fail-on", "ng").exit_code == 0
    assert call("inspect", tiny_model, good, *low, "--max-count", 1000, "--fail-on", "review").exit_code == 0
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    assert call("inspect", tiny_model, good, bad, *low, "--fail-on", "ng").exit_code == 1  # not judged weighs more
    many = [good] * 12
    model = shutil.copytree(tiny_model, tmp_path / "m")
    told = [call("drift", model, *many, "--alarm", "50%", "--defects", "1%", *more) for more in ((), ("--fail-on", "drift"))]
    alarm = "DRIFT" in told[0].stdout
    assert [each.exit_code for each in told] == [0, 4 if alarm else 0]


def test_percentages_are_shares(washers: Path, tiny_model: Path) -> None:
    good = washers / GOOD
    one, other = (call("inspect", tiny_model, good, "--false-alarm", rate) for rate in ("60%", 0.6))
    thresholds = [[row["threshold"] for row in csv.DictReader(each.stdout.splitlines())] for each in (one, other)]
    assert thresholds[0] == thresholds[1]
    assert thresholds[0]


def test_json_quiet_and_a_log(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    model, good = shutil.copytree(tiny_model, tmp_path / "m"), washers / GOOD
    result = call("drift", model, good, "--json", "-", "--no-save")
    assert json.loads(result.stdout)["n"] == 6
    assert "6 production parts" in result.stderr
    assert kept(Path(model)) == ()
    log = tmp_path / "log.txt"
    result = call("drift", model, good, "--quiet", "--log-file", log)
    assert (result.output, result.exit_code) == ("", 0)
    assert len(kept(Path(model), "drift")) == 1
    lines = log.read_text().splitlines()
    assert "saved into" in lines[-1]
    assert datetime.datetime.fromisoformat(lines[0].split()[0]).utcoffset() is not None
    result = call("drift", model, good / "none", "--log-file", log, "--verbose")
    assert "Traceback" in result.stderr
    assert log.read_text().splitlines()[-1].endswith(result.stderr.splitlines()[-1].partition("] ")[2])
    refused(call("drift", model, good, "--log-file", tmp_path), "cannot be written to")
    result = call("inspect", model, good, "-o", tmp_path / "o", "--json", tmp_path / "i.json", "--csv-dialect", "excel")
    assert json.loads((tmp_path / "i.json").read_text())["count"] == 6
    assert (tmp_path / "o" / "results.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_calibrate_keeps_results_and_judges_them_again(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    result = call("evaluate", model, washers)
    assert f"saved into {model} as evaluation of {washers.parent.name}/parts (6 good, 8 defective), 2" in result.stderr
    assert "next: flawforge report" in result.stderr
    assert "to expect: 16.7 % of good parts on average" in result.stdout
    result = call("calibrate", model, washers / GOOD, "--false-alarm", "50%", "--json", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    assert "judged again at the new limits: evaluation of " in result.stdout
    new, old = kept(model, "evaluation")
    assert new.limit == json.loads((tmp_path / "c.json").read_text())["calibration"]["threshold"]
    assert new.limit != old.limit


def test_calibrate_says_last_what_stands_out(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dataclasses.replace(calibrate(range(30), 0.1), doubts=("2 of 30 calibration pictures stand out",))
    how = dict.fromkeys(("min_area", "max_count", "scale"))
    _calibrate(tiny_model, lambda **more: (found, [*found.doubts, "NG limit moves from 3 to 27"]), **how)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  NG limit moves from 3 to 27", *found.lines(), *found.doubts]


def test_a_model_of_another_version_is_noted_by_every_command_that_judges(
    washers: Path, tiny_model: Path, tmp_path: Path
) -> None:
    content, model = bundle.read(tiny_model), tmp_path / "m"
    bundle.write(model, dataclasses.replace(content, config={**content.config, "flawforge_version": "0.0.1"}))
    good, told = washers / GOOD, "note: the model was made by flawforge 0.0.1, and this is "
    for command in (
        ("inspect", model, good),
        ("evaluate", model, washers),
        ("pod", model, good, "--count", 1, "--kind", "scratch", "--contrast", 0.3),
        ("drift", model, good),
        ("calibrate", model, good, "--false-alarm", 0.5),
    ):
        result = call(*command)
        assert result.exit_code == 0, result.output
        assert result.stderr.count(told) == 1, command
        assert told not in call(command[0], tiny_model, tmp_path / "none").output
    (model / "config.json").write_text("no JSON")
    refused(call("evaluate", model, washers), "config.json")


def test_the_speed_is_asked_for_with_and_without_the_old_word(tiny_model: Path, tmp_path: Path) -> None:
    for words in (["speed"], []):
        refused(call("bench", *words, tiny_model, tmp_path / "none"), f"There is no file or folder {tmp_path / 'none'}")


def test_help_is_in_sections() -> None:
    text = call("fit", "--help").output
    places = [text.index(f"\n{section}:\n") for section in ("Options", "Limits", "Cluster", "Advanced", "Output")]
    assert places == sorted(places)
    assert text.index("--minutes") < places[1] < text.index("--false-alarm") < places[2] < text.index("--devices")
    assert places[3] < text.index("--workers")
    for name in ("inspect", "doctor", "methods", "report"):
        assert "--log-file" in call(name, "--help").output
