"""Whole runs of both command lines: what one odd file, name, folder or signal may cost."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flawforge.cli import main
from flawforge.cli.fit import _resumable
from flawforge.judging.rows import UNFINISHED
from flawforge.types import CalibrationError, Decision, ScoreRule
from flawforge_runtime import bundle
from flawforge_runtime.__main__ import main as runtime_main
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.feed import inspect_paths
from flawforge_runtime.inspector import Inspector

FLAWFORGE = [sys.executable, "-m", "flawforge"]
ODD = [
    b"\xe4\xff.png",
    b"=1+cmd.png",
    b"+1.png",
    b"-dash.png",
    b"@SUM(1).png",
    b"\t.png",
    b"two\nlines.png",
    b"\x1b[31mred.png",
    "teil ä 零件.png".encode(),
    b"n" * 251 + b".png",
]


def call(*arguments: object, **options: Any) -> Result:
    runner = CliRunner(charset=options.pop("charset", "utf-8"))
    return runner.invoke(main, [os.fspath(each) if isinstance(each, Path) else str(each) for each in arguments], **options)


def last(result: Result) -> str:
    """The last line on standard error; a traceback fails."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return str(result.stderr.strip().splitlines()[-1])


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def good(washers: Path) -> Path:
    """One good picture."""
    return min((washers / "test" / "good").iterdir())


@pytest.fixture
def odd(good: Path, tmp_path: Path) -> Path:
    """A folder with a picture under each odd name."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD:
        shutil.copy(good, folder / os.fsdecode(name))
    return folder


@pytest.fixture(scope="module")
def box(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose map is the picture's mean colour: the runtime's command line without the minute of a real export."""
    make, real = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        make("ReduceMean", ["images"], ["map"], axes=[1], keepdims=0),
        make("ReduceMax", ["map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    shapes = {"images": ["n", 3, 64, 64], "map": ["n", 64, 64], "score": ["n"]}
    infos = {name: onnx.helper.make_tensor_value_info(name, real, shape) for name, shape in shapes.items()}
    graph = onnx.helper.make_graph(nodes, "mean", [infos["images"]], [infos["map"], infos["score"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    content = dataclasses.replace(bundle.read(tiny_model), tensors=b"", exported={"model.onnx": model.SerializeToString()})
    folder = tmp_path_factory.mktemp("box") / "box"
    bundle.write(folder, content)
    return folder


def fussy(error: BaseException) -> Inspector:
    """An inspector whose network raises `error` for a white picture."""

    def network(batch: Any) -> tuple[Any, Any]:
        if batch.mean() > 0.9:
            raise error
        return batch.mean(axis=1), batch.mean(axis=(1, 2, 3))

    return Inspector(network, (32, 32), ScoreRule(), calibrate([0.1, 0.2, 0.3], 0.25))


def black_and_white(folder: Path) -> list[Path]:
    paths = [folder / f"{place}.png" for place in range(3)]
    for path, level in zip(paths, (0, 255, 0), strict=True):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(path)
    return paths


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(5, "Input/output error"),
        UnicodeEncodeError("utf-8", "\udce4", 0, 1, "no"),
        RecursionError(),
        cv2.error("OpenCV(4)\n  broken\n"),
        RuntimeError("Infer Request\nis busy"),
        KeyError("k"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_picture_raises_it_costs_that_picture(error: Exception, tmp_path: Path) -> None:
    paths = black_and_white(tmp_path)
    first, second, third = inspect_paths(fussy(error), paths)
    assert isinstance(first, Decision)
    assert isinstance(third, Decision)
    assert isinstance(second, tuple)
    assert second[0] == paths[1]
    assert str(paths[1]) in second[1]
    assert "\n" not in second[1]
    assert second[1].endswith(".")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), CalibrationError("no thresholds")])
def test_what_ends_a_run_ends_it(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        list(inspect_paths(fussy(error), black_and_white(tmp_path)))


def test_odd_names_have_their_rows_and_overlays(
    odd: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd)
    out = tmp_path / "out"
    result = call("inspect", tiny_model, ".", "-o", out, "--overlays")
    assert result.exit_code == 0, result.output
    names = [row["image_path"] for row in table(out)]
    assert len(names) == len(ODD)
    assert {r"\xe4\xff.png", "'=1+cmd.png", "'+1.png", "'-dash.png", "'@SUM(1).png", r"two\nlines.png"} <= set(names)
    overlays = [path.name for path in (out / "overlays").iterdir()]
    assert len(overlays) == len(ODD)
    assert all(len(name) < 160 and name.isprintable() for name in overlays)
    result = call("inspect", tiny_model, ".", "--format", "jsonl")
    found = [os.fsencode(json.loads(line)["image_path"]) for line in result.stdout.splitlines()]
    assert sorted(found) == sorted(ODD)


def test_odd_names_reach_no_terminal_raw(odd: Path, tiny_model: Path) -> None:
    for path in odd.iterdir():
        path.write_bytes(b"no picture")
    for charset in ("utf-8", "ascii"):
        result = call("inspect", tiny_model, odd, charset=charset)
        assert "10 of 10 files could not be judged" in last(result)
        assert "\x1b[31m" not in result.output
        assert r"\x1b[31mred.png" in result.stderr
        assert r"two\nlines.png" in result.stderr
    result = call("inspect", tiny_model / "\x1b[31m", odd)
    assert (r"\x1b[31m" in last(result), "\x1b[31m" in last(result)) == (True, False)


def test_overlays_never_overwrite_each_other(good: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png"):
        shutil.copy(good, data / name)
    with Image.open(good) as image:
        image.save(data / "a.jpg")
    paths = [data, data / "a.png", data / "a.png"]
    result = call("inspect", tiny_model, *paths, "-o", tmp_path / "out", "--overlays")
    assert result.exit_code == 0, result.output
    numbers = [int(path.stem.rpartition("-")[2]) for path in (tmp_path / "out" / "overlays").iterdir()]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert len(table(tmp_path / "out")) == 5


def test_an_overlay_that_fails_costs_no_row(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The system lets no file grow beyond 1,500 bytes: rows fit, overlays do not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        result = call("inspect", tiny_model, washers / "test" / "good", "-o", tmp_path / "out", "--overlays")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (result.exit_code, last(result)) == (
        1,
        "flawforge: 6 overlays could not be written; they are named above, the rest is done.",
    )
    assert result.stderr.count("No overlay of") == 6
    assert len(table(tmp_path / "out")) == 6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["overlays", "results.csv"]


def test_the_end_of_a_run_is_one_line(good: Path, tiny_model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    out = tmp_path / "out"
    result = call("inspect", tiny_model, good, bad, good, "-o", out, "--threshold", -1e9, "--format", "jsonl")
    assert result.stdout == (
        f"2 judged: 0 OK, 0 REVIEW, 2 NG, 1 could not be judged; rows are in {out / 'results.jsonl'}; "
        f"pictures in {out / 'index.html'}\n"
    )
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, False]
    assert (rows[0]["valid"], rows[0]["notes"]) == (True, [])
    assert re.search(r"^NG \(rejected\) above score -1e\+09: .* of good parts on average", result.stderr, re.MULTILINE)


def test_no_picture_is_an_error_and_makes_no_folder(
    good: Path, tiny_model: Path, box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    for name in "abc":
        (papers / f"{name}.pdf").write_bytes(b"%PDF")
    words = f"No picture in {papers}: 3 files, all .pdf; give PNG, JPEG, BMP, TIFF or WebP."
    for command in (
        ["inspect", tiny_model, papers, "-o", tmp_path / "out"],
        ["drift", tiny_model, papers],
        ["bench", "speed", tiny_model, papers],
    ):
        result = call(*command)
        assert (result.exit_code, last(result)) == (1, f"flawforge: {words}")
    assert not (tmp_path / "out").exists()
    assert call("inspect", tiny_model, "-", input="").exit_code == 1
    result = call("inspect", tiny_model, papers, good)
    assert last(result) == (
        "flawforge: 1 folder could not be read or held no picture; they are named above, the rest is done."
    )
    assert words in result.stderr
    assert runtime_main([str(box), str(papers)]) == 1
    assert capsys.readouterr().err == f"flawforge-runtime: {words}\n"
    assert runtime_main([str(box), str(papers), str(good)]) == 0 + 1
    captured = capsys.readouterr()
    assert captured.err == f"flawforge-runtime: {words}\n".removeprefix("flawforge-runtime: ")
    assert json.loads(captured.out)["image_path"] == str(good)


def remarked(path: Path, good: Path) -> Path:
    """A TIFF with a tag that points beyond the file, on which Pillow remarks while it reads the picture."""
    with Image.open(good) as image:
        image.convert("L").save(path)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = bytes(data[start + 2 : start + 2 + 12 * count]) + struct.pack("<HHII", 65000, 7, 100, 10**6)
    data[4:8] = struct.pack("<I", len(data))
    path.write_bytes(bytes(data) + struct.pack("<H", count + 1) + entries + struct.pack("<I", 0))
    return path


def test_what_a_decoder_remarks_does_not_come_between_the_rows(
    good: Path, tiny_model: Path, box: Path, tmp_path: Path
) -> None:
    path = str(remarked(tmp_path / "a.tif", good))
    commands = [*FLAWFORGE, "inspect", str(tiny_model), path], [sys.executable, "-m", "flawforge_runtime", str(box), path]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert "image_path" in done.stdout
        assert "Warning" not in done.stderr


def test_bytes_on_standard_input_that_are_not_utf8(odd: Path, good: Path, tiny_model: Path) -> None:
    lines = b"%b\ngone\xe4.png\n%b\n" % (os.fsencode(odd) + b"/\xe4\xff.png", os.fsencode(good))
    result = call("inspect", tiny_model, "-", input=lines)
    assert "1 of 3 files" in last(result)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [os.fsencode(row["image_path"]) for row in rows] == lines.splitlines()
    assert ["error" in row for row in rows] == [False, True, False]


def test_the_runtime_judges_odd_names_and_counts_what_it_skips(
    odd: Path, good: Path, box: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime_main([str(box), str(odd)]) == 0
    found = [os.fsencode(json.loads(line)["image_path"]) for line in capsys.readouterr().out.splitlines()]
    assert sorted(found) == sorted(os.fsencode(odd) + b"/" + name for name in ODD)
    lines = b"gone\xe4.png\n%b\n" % os.fsencode(good)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    assert runtime_main([str(box), "-"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [os.fsencode(row["image_path"]) for row in rows] == lines.splitlines()
    assert ["error" in row for row in rows] == [True, False]


def test_the_runtime_ends_with_a_code_where_a_picture_is_rejected(box: Path, good: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    content = bundle.read(box)
    assert content.calibration is not None
    for name, threshold in (("low", -1e9), ("high", 1e9)):
        moved = content.calibration.moved(threshold=threshold)
        bundle.write(tmp_path / name, dataclasses.replace(content, calibration=moved, guard=None))
    low, high = str(tmp_path / "low"), str(tmp_path / "high")
    assert runtime_main([low, str(good)]) == 0
    assert runtime_main([low, str(good), "--fail-on", "ng"]) == 3
    assert runtime_main([high, str(good), "--fail-on", "ng"]) == 0
    assert runtime_main([low, str(good), str(tmp_path / "bad.png"), "--fail-on", "ng"]) == 1


class Pressed(io.RawIOBase):
    """Standard input on which somebody presses Ctrl-C after the given lines."""

    def __init__(self, *lines: Path) -> None:
        self.left = b"".join(os.fsencode(line) + b"\n" for line in lines)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if len(buffer) and not self.left:
            raise KeyboardInterrupt
        part, self.left = self.left[: len(buffer)], self.left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def test_ctrl_c_says_what_was_judged_and_where_it_lies(
    good: Path,
    tiny_model: Path,
    box: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    result = call("inspect", tiny_model, "-", "-o", out, "--format", "csv", input=Pressed(good, good))
    words = f"flawforge: Interrupted; 2 judged, the rows so far are in {out / 'results.csv'}."
    assert (result.exit_code, last(result)) == (1, words)
    assert len(table(out)) == 2
    assert (out / UNFINISHED).exists()
    result = call("inspect", tiny_model, "-", "-o", tmp_path / "none", input=Pressed())
    assert last(result) == "flawforge: Interrupted before the first picture was judged."
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pressed(good))))
    assert runtime_main([str(box), "-"]) == 1
    assert "Interrupted; the rows so far are printed: " in capsys.readouterr().err


def test_ctrl_c_in_a_fit_promises_resume_only_where_there_is_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for promised in (False, True):
        with pytest.raises(SystemExit), _resumable(tmp_path / "m"):
            raise KeyboardInterrupt
        assert ("--resume" in capsys.readouterr().err) == promised
        (tmp_path / "m.fitting").mkdir(exist_ok=True)
        (tmp_path / "m.fitting" / "checkpoint.safetensors").touch()


def until(done: Any, process: subprocess.Popen[bytes]) -> None:
    start = time.monotonic()
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - start < 120
        time.sleep(0.02)


def test_a_kill_leaves_every_row_and_a_second_run_is_refused_meanwhile(good: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*FLAWFORGE, "inspect", str(tiny_model), "-", "-o", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"%b\nnone.png\n%b\n" % (os.fsencode(good), os.fsencode(good)))
        process.stdin.flush()
        results = out / "results.jsonl"
        until(lambda: results.exists() and results.read_bytes().count(b"\n") == 3, process)
        assert "has not come to its end" in last(call("inspect", tiny_model, good, "-o", out))
        process.send_signal(signal.SIGKILL)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in out.iterdir()) == ["results.jsonl", UNFINISHED]
    assert "has not come to its end" in last(call("inspect", tiny_model, good, "-o", out))


@pytest.mark.parametrize("command", ["inspect", "methods", "runtime"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(command: str, washers: Path, tiny_model: Path, box: Path) -> None:
    pictures = str(washers / "test")
    arguments = {
        "inspect": [*FLAWFORGE, "inspect", str(tiny_model), pictures],
        "methods": [*FLAWFORGE, "methods"],
        "runtime": [sys.executable, "-m", "flawforge_runtime", str(box), pictures],
    }[command]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    finally:
        os.close(write)
    said = [line for line in re.split("[\r\n]", done.stderr) if line.strip() and not line.startswith("inspecting:")]
    assert (done.returncode, said) == (1, [])


@pytest.fixture(scope="module")
def odd_parts(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts whose names are not UTF-8; two are near-duplicates and one cannot be read."""
    data = tmp_path_factory.mktemp("parts") / os.fsdecode(b"good\xe4`\x1b[31m")
    shutil.copytree(washers / "train" / "good", data)
    for number, path in enumerate(sorted(data.iterdir())):
        path.rename(data / os.fsdecode(b"\xe4%d.png" % number))
    shutil.copy(data / os.fsdecode(b"\xe40.png"), data / os.fsdecode(b"twin\xff.png"))
    (data / os.fsdecode(b"torn\xff.png")).write_bytes(b"no picture")
    return data


def test_names_that_are_not_utf8_among_good_parts_do_not_cost_the_fit(odd_parts: Path, tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(b"m`\xe4`")
    settings = ("segment_width=4", "reconstruct_width=4", "batch=2")
    options = [text for each in settings for text in ("--set", each)]
    result = call("fit", odd_parts, "-o", model, "--method", "draem", "--size", 64, "--steps", 2, *options)
    assert result.exit_code == 0, result.output
    assert r"torn\xff.png" in result.output
    assert "\x1b[31m" not in result.output
    config = bundle.read(model).config
    assert config["held_back"]
    assert all(Path(path).is_file() for path in config["held_back"])
    assert os.fsencode(config["data_report"]["unreadable"][0]["path"]).endswith(b"torn\xff.png")
    assert len(config["data_report"]["duplicate_groups"]) >= 1
    (model / "README.md").read_text(encoding="utf-8")
    json.loads((model / "config.json").read_text(encoding="utf-8"))
    for ending in ("html", "md", "json"):
        result = call("report", model, "-o", tmp_path / f"r.{ending}")
        assert result.exit_code == 0, result.output
    markdown = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert r"Run `` flawforge evaluate 'm`\xe4`' DATA" in markdown
