"""The stopwatch, and the export page, as a reader would type it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click.testing
import numpy as np
import pytest

from flawforge.cli import main
from flawforge.judging import speed
from flawforge.types import ConfigError
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.types import ScoreRule
from printed import smaller

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "export.md"


@pytest.mark.slow
def test_every_figure_is_there_and_adds_up(tiny_model: Path, washers: Path) -> None:
    paths = sorted((washers / "test" / "good").iterdir())
    measured = speed.measure(tiny_model, paths, repeats=20, threads=1)
    result = measured.as_dict()
    assert 0 < result["p50"] <= result["p95"] <= result["p99"]
    stages = ["decode", "resize", "guard", "to network", "network", "score", "map to own size", "regions"]
    assert sorted(result["stages"]) == sorted(stages)
    assert 0.2 * result["p50"] < sum(result["stages"].values()) < 5 * result["p50"]
    assert result["cold_start_seconds"] * 1000 > result["p50"]
    assert (result["backend"], result["threads"], result["repeats"]) == ("torch", 1, 20)
    assert result["resident_mb"] > 50
    assert "first verdict" in measured.lines()[-1]
    json.dumps(result, allow_nan=False)


class Recorder:
    """A network that remembers what it was given: brightness, where the picture lies."""

    placed = True

    def __init__(self) -> None:
        self.given: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, batch: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.given.append((batch, inner))
        maps = batch.mean(axis=1)
        return maps, maps.max(axis=(1, 2))


@pytest.mark.parametrize("tile", [None, 24])
def test_the_stopwatch_times_the_judgement_itself(tile: int | None, tmp_path: Path) -> None:
    """The network is given the same values as by a judgement: letterboxed, with the camera's depth, tile by tile."""
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 64), np.uint16)
    write_image(tmp_path / "deep.png", pixels)
    network = Recorder()
    calibration = calibrate([0.1, 0.2, 0.3], 0.25)
    inspector = Inspector(network, (32, 32), ScoreRule("max"), calibration, depth=12, tile=tile)
    inspector(tmp_path / "deep.png")
    wanted, network.given = network.given, []
    stages = speed.where(inspector, [tmp_path / "deep.png"], 1)
    assert len(network.given) == len(wanted) == (1 if tile is None else 2)  # a row of tiles at once
    for ours, theirs in zip(network.given, wanted, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert len(wanted[0][0]) == (1 if tile is None else 4)
    assert set(stages) == {"decode", "resize", "guard", "to network", "network", "score", "map to own size", "regions"}
    speed.batched(inspector, tmp_path / "deep.png", 1)
    if tile is None:
        assert (network.given[-1][0] == wanted[0][0]).all()
        assert (network.given[-1][1] == wanted[0][1]).all()


def test_too_few_judgements_are_refused(tiny_model: Path, washers: Path) -> None:
    with pytest.raises(ConfigError, match="20 or more on at least one picture"):
        speed.measure(tiny_model, [], repeats=20)
    run = click.testing.CliRunner().invoke(main, ["bench", "speed", str(tiny_model), str(washers), "--repeats", "5"])
    assert run.exit_code == 2
    assert "'--repeats': 5 was given; give a whole number from 20." in run.output


DEMO = "flawforge demo -o desk --good 40 --method draem --minutes 0.1"  # its parts and model are there already, see below


@pytest.mark.slow
@pytest.mark.timeout(900)  # four programs, each with its own start; a busy machine is slow at that
def test_export_page_as_printed(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    """Every block of the page in its order, in an empty folder; no picture of the last calls may go unjudged."""
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks].count("python") == 1
    assert len(blocks) >= 6
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    fill = f"mkdir desk; cp -r '{washers}' desk/parts; cp -r '{tiny_model}' desk/model"
    said = ""
    for language, printed in blocks:
        block = smaller(printed, {DEMO: fill}) if "flawforge demo" in printed else printed
        program = ["bash", "-euo", "pipefail", "-c", block] if language == "sh" else [sys.executable, "-c", block]
        env = os.environ | {"PATH": path}
        done = subprocess.run(program, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        said += done.stdout
    assert said.count('"verdict"') >= 4
    assert "file to verdict: p50" in said
