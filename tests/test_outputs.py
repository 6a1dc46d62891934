"""A file that a person names for a result: pipes and devices stay what they are, and no part of a model is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from flawforge.cli.app import main
from flawforge.reporting.report import report
from flawforge.types import ConfigError, DataError
from flawforge_runtime import bundle
from flawforge_runtime.outputs import MANIFEST, check_output, write_output


def heard(fifo: Path, write: Callable[[], object]) -> bytes:
    """What comes out of a new pipe while `write` writes to it."""
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write()
    reader.join(20)
    assert not reader.is_alive()
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    return got[0]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path, tiny_model: Path) -> None:
    content = bytes(range(256)) * 4096  # more than a pipe holds
    assert heard(tmp_path / "pipe", lambda: write_output(tmp_path / "pipe", content)) == content
    asked = tmp_path / "json"
    said = heard(asked, lambda: CliRunner().invoke(main, ["methods", "--json", str(asked)], catch_exceptions=False))
    assert "patchcore" in json.loads(said)
    page = tmp_path / "page.json"
    assert json.loads(heard(page, lambda: report(tiny_model, page)))["answer"]
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path / "other")
    assert heard(tmp_path / "other", lambda: write_output(linked, b"through a link")) == b"through a link"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_pipe_that_nobody_reads_to_its_end_is_a_sentence(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def leave() -> None:
        os.read(reader, 1)
        os.close(reader)

    closing = threading.Timer(0.3, leave)
    closing.start()
    with pytest.raises(DataError, match=r"pipe was closed by its reader before all was written; let it read to the end\.$"):
        write_output(fifo, bytes(1 << 20))
    closing.join()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no full device")
def test_a_full_device_is_a_sentence_and_stays_a_device(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # a writer that renames would replace the link, and not the device
    done = CliRunner().invoke(main, ["methods", "--json", str(full)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"flawforge: The disk is full at {full}")
    assert full.is_symlink()
    assert full.is_char_device()


def test_standard_output_is_written_to_where_it_stands(tmp_path: Path) -> None:
    """Into a file too, after what is there."""
    link, log = tmp_path / "stdout", tmp_path / "log"
    link.symlink_to("/dev/stdout")
    with log.open("wb") as file:
        command = [sys.executable, "-m", "flawforge", "methods", "--json", str(link)]
        subprocess.run(command, stdout=file, check=True)
    text = log.read_text()
    assert not text.startswith("{")
    assert "patchcore" in json.loads(text[text.index("{\n") :])
    assert link.is_symlink()


def test_a_link_to_a_file_stays_and_its_file_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old and longer")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_output(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    write_output(tmp_path / "fresh", b"new")
    assert (tmp_path / "fresh").read_bytes() == b"new"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("form", ["torch", "onnx", "openvino"])
def test_no_part_of_a_model_is_overwritten(
    form: str, tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m"
    shutil.copytree(tiny_model if form == "torch" else request.getfixturevalue("exports")[form], model)
    before = bytes_of(model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(model / "config.json")
    assert {*bundle.NETWORKS[form], *bundle.COMMON} <= set(before)
    for name in (*bundle.read_manifest(model)["files"], MANIFEST):
        for option in ("--json", "--log-file"):
            done = CliRunner().invoke(main, ["methods", option, f"m/{name}"])
            assert done.exit_code == 2
            (line,) = done.stderr.splitlines()
            assert line == f"flawforge: {option} m/{name} would overwrite a part of the model in m; give another file."
    for place in ("m/config.json", "m/README.md"):
        ending = Path(place).suffix
        done = CliRunner().invoke(main, ["report", "m", "-o", place])
        assert done.exit_code == 2, ending
        assert f"The report {place} would overwrite a part of the model in m; give another file." in done.stderr
    for place in (Path("link"), Path("m/../m") / MANIFEST):
        with pytest.raises(ConfigError, match="would overwrite a part of the model"):
            write_output(place, b"{}")
    assert bytes_of(model) == before
    write_output(model / "mine.json", b"{}")
    assert bundle.read(model).model_id


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{", b'{"files": {"a.json": {}}, "made_by": "x"}', b'{"made_by": "flawforge"}']
)
def test_another_programs_manifest_guards_nothing(manifest: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(manifest)
    check_output(tmp_path / MANIFEST, "--json")
    write_output(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"


def test_the_manifest_is_the_bundles() -> None:
    assert MANIFEST == bundle.MANIFEST
