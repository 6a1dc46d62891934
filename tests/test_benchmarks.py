"""The benchmarks' own arithmetic, so that a recorded figure means what its column says."""

from __future__ import annotations

import argparse
import dataclasses
import json
import runpy
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import ablation
import accuracy
import aupro_speed
import false_alarm
import paper_ablations
import pod_report
import pod_trust
import real_defects
import real_defects_page
import scale_simulation
from flawforge.config import override
from flawforge.methods import METHODS
from flawforge.pictures.listing import Entry
from flawforge.proving import metrics
from record import read, record


def test_random_splits_hold_the_promise_at_the_exact_rate() -> None:
    scores = np.random.default_rng(0).normal(size=190)
    row = false_alarm.measure(scores, 0.05, splits=200, calibration=95, seed=1)
    assert row["expected"] == 4 / 96  # floor(0.05 * 96) = 4 of 96
    assert row["mean"] == pytest.approx(4 / 96, abs=4 * row["spread"] / np.sqrt(200))
    assert row["holds"] == "yes"
    assert row["bound"] == pytest.approx(0.05 + 1.96 * np.sqrt(0.05 * 0.95 / (200 * 95)))
    assert (row["n_calibration"], row["n_fresh"]) == (95, 95)
    assert false_alarm.measure(scores, 0.05, splits=200, calibration=95, seed=1) == row


def test_with_confidence_few_splits_are_above_the_rate() -> None:
    scores = np.random.default_rng(0).normal(size=190)
    sure = false_alarm.measure(scores, 0.05, splits=200, calibration=95, seed=1, confidence=0.95)
    plain = false_alarm.measure(scores, 0.05, splits=200, calibration=95, seed=1)
    assert sure["holds"] == "yes"
    assert sure["expected"] == 2 / 96  # 93 pictures carry two above the threshold at 5 % with 95 %
    assert sure["share_above"] <= plain["share_above"]
    for row in (sure, plain):  # random splits of one set of distinct scores follow the exact law
        assert row["share_above"] == pytest.approx(row["expected_above"], abs=0.12)


def test_forged_and_real_recall_are_compared_by_size() -> None:
    """A proof whose curve is the truth: the gap is small, and the bins rise together; a flat one says nothing."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(4), np.log(60), 300))
    truth = 1 / (1 + np.exp(-3 * np.log(sizes / 15)))
    hits = (rng.random(300) < truth).astype(int)
    grid = np.geomspace(4, 60, 30)
    curve = {"contrast": 0.3, "points": [[a, 1 / (1 + (15 / a) ** 3), 0.0, 1.0] for a in grid]}
    proof = {"curves": [curve], "trials": [{"size": a, "hit": a > 15} for a in grid], "goods": 9}
    summary, bins = pod_trust.compare(proof, sizes, hits)
    assert abs(summary["gap"]) < 0.06
    assert summary["spearman"] > 0.85
    assert summary["brier"] < summary["brier_rate"]
    assert sum(each["n_real"] for each in bins) == 300
    assert summary["gap_low"] < 0 < summary["gap_high"]  # the truth lies within, and its interval has a width
    assert summary["gap_high"] - summary["gap_low"] < 0.12
    assert summary["concordance_low"] > 0.7
    assert summary["faint"] == summary["plain"] == summary["forged"]
    assert summary["n_beyond"] == 0
    level = {"contrast": 0.1, "points": [[4.0, 0.5, 0, 1], [60.0, 0.5, 0, 1]]}
    flat, _ = pod_trust.compare(proof | {"curves": [level]}, sizes, hits)
    assert (flat["spearman"], flat["concordance"]) == (None, 0.5)
    both, _ = pod_trust.compare(proof | {"curves": [level, curve]}, sizes, hits)
    assert (both["faint"], both["plain"]) == (0.5, summary["forged"])
    assert pod_trust.compare(proof, np.append(sizes, 90.0), np.append(hits, 1))[0]["n_beyond"] == 1
    row = {"data": "parts", "method": "m", "seed": "0", "rate": "0", "from": "4", "to": "9"}
    drawn = pod_trust.drawing([row | {key: str(value) for key, value in bins[0].items()}])
    assert drawn.startswith("<svg")
    assert "parts" in drawn


def test_equal_scores_never_alarm() -> None:
    row = false_alarm.measure(np.ones(60), 0.1, splits=5, calibration=30, seed=0)
    assert (row["mean"], row["share_above"]) == (0.0, 0.0)


def test_synthetic_maps_are_a_fair_task() -> None:
    """A seed gives the same maps, and their AUPRO is neither 0 nor 1."""
    masks = np.zeros((4, 64, 64), bool)
    masks[0, 10:20, 10:22] = masks[1, 30:50, 5:15] = True
    maps, _ = aupro_speed.synthetic(masks, 0)
    assert (maps == aupro_speed.synthetic(masks, 0)[0]).all()
    value = metrics.aupro(list(maps), list(masks), 0.3)
    assert value is not None
    assert 0.05 < value < 0.99


def test_a_measured_row_is_not_measured_again_but_a_failed_one_is(tmp_path: Path) -> None:
    options = argparse.Namespace(
        method="draem", profile="cpu", trunk="", minutes=10.0, clock="cpu", size=256, set=["b=2", "a=1"]
    )
    key = accuracy._key(options, "parts", 0)
    path = tmp_path / "accuracy.csv"
    record(path, {**dict(zip(accuracy.KEY, key, strict=True)), "error": "the disk is full"})
    assert key not in accuracy._done(path)
    record(path, dict(zip(accuracy.KEY, key, strict=True)))
    assert key in accuracy._done(path)
    options.set.reverse()
    assert accuracy._key(options, "parts", 0) == key
    assert accuracy._key(options, "parts", 1) not in accuracy._done(path)
    # Features from outside are another measurement; rows of before had none, and --trunk none still has none.
    options.method = "padim"
    assert accuracy._key(options, "parts", 0)[accuracy.KEY.index("trunk")] == "lite0"
    options.trunk = "none"
    assert accuracy._key(options, "parts", 0)[accuracy.KEY.index("trunk")] == ""


@pytest.mark.slow
def test_a_row_of_accuracy_tells_the_models_notes(washers: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(
        method="auto", profile="cpu", trunk="none", minutes=0.02, clock="cpu", size=64, set=["epochs=0.1"]
    )
    row = accuracy.measure(washers, 0, options, tmp_path)
    assert "error" not in row, row
    notes = json.loads(next(tmp_path.glob("*/config.json")).read_text())["notes"]
    assert row["notes"] == "; ".join(notes)
    assert any(note.startswith("for the picture ") for note in notes)
    assert row["n_train"] + row["n_held"] == 24


UNWATCHED = ["--set", "check_every=0"]  # one step teaches nothing, and anoseg would say so
SCRIPTS = Path(__file__).resolve().parent.parent / "benchmarks"
ABLATIONS = {
    "sgsf_ablation.py": ["--variant", "reference"],
    "anoseg_ablation.py": ["--variant", "no skips"],
    "isstad_ablation.py": ["--variant", "product", "sum"],
    "cut_ablation.py": ["--variant", "random places"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", ABLATIONS)
def test_an_ablation_writes_its_rows(
    script: str, washers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step on drawn parts: that the figures are there, not what they are."""
    arguments = ["--data", washers.name, "--steps", "1", "--size", "64", "--seeds", "0", "--out", str(tmp_path / "rows.csv")]
    arguments += [*ABLATIONS[script], *(UNWATCHED if script == "anoseg_ablation.py" else [])]
    monkeypatch.setenv("FLAWFORGE_DATA", str(washers.parent))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")  # in this process, where torch is loaded already
    assert washers.name in capsys.readouterr().out
    rows = read(tmp_path / "rows.csv")[1]
    assert len(rows) == len(ABLATIONS[script]) - 1
    for row in rows:
        for column in ("forged_image_auroc", "forged_pixel_ap"):
            found = next(value for name, value in row.items() if name.startswith(column))
            assert 0.0 <= float(found) <= 1.0


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*_ablation.py")))
def test_every_variant_of_an_ablation_can_be_fitted(script: str) -> None:
    """Its settings are its method's own, in their range: an hour's run does not end at the fourth variant."""
    names = runpy.run_path(str(SCRIPTS / script))
    variants = names.get("VARIANTS") or {}
    if script == "isstad_ablation.py":
        variants = names["TRAINED"] | names["OVER_A_TRUNK"] | names["SIZES"]
    assert variants
    for name, found in variants.items():
        method, settings = script.removesuffix("_ablation.py"), found
        if isinstance(found, tuple):
            method, settings = found if isinstance(found[0], str) else (method, found[0])
        if script == "trunk_ablation.py":
            method, settings = "auto", found[1]
        if name == "draem":
            method = "draem"
        override(METHODS[method].profiles["cpu"], settings)


def profile_run(
    monkeypatch: pytest.MonkeyPatch, washers: Path, tmp_path: Path, method: str, *more: str
) -> list[dict[str, str]]:
    """One call of paper_profiles.py on drawn parts with tiny settings; the rows so far."""
    pairs = [f"{key}={json.dumps(value)}" for key, value in dataclasses.asdict(METHODS[method].tiny).items()] + list(more)
    arguments = ["--method", method, "--data", washers.name, "--models", str(tmp_path), "--size", "64", "--steps", "6"]
    arguments += ["--device", "cpu", "--out", str(tmp_path / "rows.csv"), "--set", *pairs]
    monkeypatch.setenv("FLAWFORGE_DATA", str(washers.parent))
    monkeypatch.setattr(sys, "argv", ["paper_profiles.py", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    try:
        runpy.run_path(str(SCRIPTS / "paper_profiles.py"), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    return read(tmp_path / "rows.csv")[1]


@pytest.mark.slow
def test_a_paper_profile_stops_at_its_limit_and_goes_on_to_the_same_bits(
    washers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that is over at once: each call makes one step, of one stage and then of the other; then without a limit."""
    run = partial(profile_run, monkeypatch, washers, tmp_path / "stopped", "isstad")
    for _ in range(3):
        rows = run("--limit", "0.00001")
    assert [int(row["steps"]) for row in rows] == [1, 2, 3]  # the first stage has two
    shares = [float(row["progress"]) for row in rows]
    assert shares == sorted(set(shares))
    assert shares[-1] < 1
    assert 0.0 <= float(rows[0]["image_auroc"]) <= 1.0  # judged as it stands
    assert not (tmp_path / "stopped" / f"isstad_{washers.name}_64_0_6steps").exists()
    last = run()[-1]
    assert (last["progress"], last["steps"], last["device"]) == ("1", "6", "cpu")
    assert (last["machine"], last["commit"], last["date"], last["seed"]) != ("", "", "", "")
    assert last["promised_false_alarm"]
    assert len(run()) == 4  # final: not measured again
    assert "already measured" in capsys.readouterr().out
    profile_run(monkeypatch, washers, tmp_path / "whole", "isstad")
    first, second = (next((tmp_path / name).glob("isstad_*")) / "model.safetensors" for name in ("stopped", "whole"))
    assert first.read_bytes() == second.read_bytes()
    assert not list((tmp_path / "stopped").glob("*.fitting"))


def test_a_paper_profile_that_stops_itself_gives_its_reason(
    washers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = profile_run(monkeypatch, washers, tmp_path, "anoseg", "learning_rate=1e30")
    assert "Training stopped" in row["stopped"]
    assert "image_auroc" not in row


def test_what_is_not_reached_is_drawn_without_a_bar() -> None:
    row = {"data": "parts", "method": "auto", "promised": "0.02", "smallest": "4", "largest": "60", "kind": "dent"}
    rows = [
        row | {"contrast": "0.3", "a90": "9", "a90_95": "12"},
        row | {"contrast": "0.1", "a90": "", "a90_95": ""},
        row | {"method": "patchstats", "contrast": "0.3", "a90": "20", "a90_95": ""},
    ]
    drawn = pod_report.drawing(rows)
    assert drawn.count("not reached") == 2
    assert drawn.count("<circle") == 2
    assert drawn.count('stroke-width="2"') == 1


def test_an_ablation_measures_only_what_is_missing(tmp_path: Path) -> None:
    asked = ablation.parser("", ["base", "other"], tmp_path / "a.csv")
    options = asked.parse_args(["--data", "bottle", "--minutes", "2", "--set", "b=2", "a=1"])
    keys = [ablation.key_of("bottle", variant, 0, options) for variant in options.variant]
    assert keys[0] == {
        "data": "bottle",
        "variant": "base",
        "minutes": "2",
        "steps_asked": "",
        "size": "256",
        "settings": "a=1 b=2",
        "seed": "0",
    }
    assert ablation.missing(options.out, keys) == keys
    record(options.out, {**keys[1], "image_auroc": 0.5})
    assert ablation.missing(options.out, keys) == keys[:1]
    assert ablation.missing(options.out, [ablation.key_of("bottle", "other", 1, options)]) != []
    by_steps = asked.parse_args(["--steps", "9"])
    assert ablation.budget(by_steps) == {"steps": 9}
    assert ablation.key_of("bottle", "base", 0, by_steps)["minutes"] == ""


@pytest.mark.parametrize("method", paper_ablations.ABLATIONS)
def test_the_papers_ablations_ask_for_variants_that_there_are_and_count_what_is_missing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    each = paper_ablations.ABLATIONS[method]
    assert set(each.variants) <= set(runpy.run_path(str(SCRIPTS / each.script))["VARIANTS"])
    told = ["paper_ablations.py", "--dry-run", "--method", method, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", told)
    paper_ablations.main()
    whole = f"{each.fits * len(each.data) * 3} fits are missing"
    assert whole in capsys.readouterr().out
    base = {"data": each.data[0], "seed": "1", **each.table.cells}
    for variant in each.variants:
        record(tmp_path / each.table.results, {"variant": variant, **base})
    record(tmp_path / each.table.results, {"variant": each.variants[0], **base, "seed": "2", "settings": "x=1"})
    record(tmp_path / each.table.results, {"variant": each.variants[0], **base, "seed": "0", "date": "2026-01-01T03:00:00Z"})
    record(tmp_path / each.table.results, {"variant": each.variants[1], **base, "seed": "0", "date": "2026-01-02T04:00:00Z"})
    record(tmp_path / each.table.results, {"variant": each.variants[0], **base, "seed": "2", "size": "128"})
    paper_ablations.main()
    left = capsys.readouterr().out
    assert f"{method}, {each.data[0]}, seed 1: {len(each.variants)} of {len(each.variants)} rows" in left
    assert f"{method}, {each.data[0]}, seed 2: 0 of {len(each.variants)} rows" in left
    late = "measured 25 hours apart: measure them again on one host"
    assert f"{method}, {each.data[0]}, seed 0: 2 of {len(each.variants)} rows, {late}" in left
    assert left.count("apart") == 1


def test_real_defects_are_never_in_two_of_the_sets() -> None:
    """The same test pictures for any number of taught defects, at most so many of a kind, and none that was taught."""
    entries = [Entry(Path(f"good/{i}.png")) for i in range(30)]
    entries += [Entry(Path(f"test/good/{i}.png"), 0, "test") for i in range(50)]
    masked = Path("mask.png")
    entries += [
        Entry(Path(f"{k}/{i}.png"), 1, "test", k, masked) for k, n in (("crack", 40), ("dent", 30)) for i in range(n)
    ]
    entries.append(Entry(Path("crack/bare.png"), 1, "test", "crack"))
    options = argparse.Namespace(pictures=20, counts=[0, 1, 5], tests=10)
    good, taught, judged = real_defects.drawn(entries, "crack", options, seed=3)
    assert (len(good), len(taught)) == (20, 5)
    assert Counter(entry.kind for entry in judged) == {"good": 20, "crack": 10, "dent": 10}
    assert not {entry.path for entry in judged} & {entry.path for entry in (*good, *taught)}
    assert all(entry.kind == "crack" for entry in taught)
    assert Path("crack/bare.png") not in {entry.path for entry in (*taught, *judged)}
    assert real_defects.drawn(entries, "crack", options, seed=3) == (good, taught, judged)
    assert real_defects.drawn(entries, "crack", options, seed=4)[1] != taught


def test_figures_of_real_defects_are_of_their_own_group(tmp_path: Path) -> None:
    def judged(score: float, verdict: str, label: int) -> Any:
        decision = SimpleNamespace(pred_score=score, verdict=verdict, anomaly_map=np.full((4, 4), score, np.float32))
        return Entry(Path("x.png"), label, "test", mask_path=None), decision

    good = [judged(score, verdict, 0) for score, verdict in ((0.1, "OK"), (0.2, "OK"), (0.3, "NG"), (0.4, "OK"))]
    found = real_defects.figures(good, [judged(0.5, "NG", 1), judged(0.25, "OK", 1)], seed=0)
    assert found["image_auroc"] == (4 + 2) / 8
    assert (found["recall"], found["false_alarms"]) == (0.5, 0.25)
    assert (found["n_good"], found["n_defective"]) == (4, 2)
    assert found["image_auroc_low"] <= found["image_auroc"] <= found["image_auroc_high"]


def test_the_table_of_real_defects_goes_by_product_and_count(tmp_path: Path) -> None:
    assert real_defects_page.table(tmp_path / "none.csv") == "Not measured yet.\n"
    row = dict.fromkeys(("image_auroc", "image_auroc_low", "image_auroc_high", "pixel_ap", "recall_low", "recall_high"), 0.5)
    row |= {"data": "mvtec_bottle", "kind": "contamination", "n_defective": 9, "recall": 0.25}
    row |= {"minutes": "0.6", "size": "128", "trunk": "none", "good": "100"}
    row |= {"use": "for the picture their sum; for the map the segmenter alone"}
    for count in (20, 0):
        record(tmp_path / "r.csv", {**row, "defects": count, "tested": "same kind"})
    lines = real_defects_page.table(tmp_path / "r.csv").splitlines()
    assert lines[0] == "`auto`, one seed; 0.6 processor-minutes a fit, canvas 128, trunk none, 100 good pictures."
    assert [line.split(" | ")[2] for line in lines[4:]] == ["0", "20"]
    assert lines[4].endswith("| 0.500 | 0.25 (0.50 to 0.50) | their sum |")
    record(tmp_path / "r.csv", {**row, "defects": 20, "tested": "same kind", "recall": 0.75})  # measured again
    again = real_defects_page.table(tmp_path / "r.csv").splitlines()
    assert again[:5] == lines[:5]
    assert len(again) == len(lines)
    assert again[5].endswith("| 0.500 | 0.75 (0.50 to 0.50) | their sum |")


def test_the_simulated_cluster_is_bounded_by_its_cores_or_by_its_driver() -> None:
    alike = scale_simulation.makespan(1000, 10, 4, each=0.5, commit=1e-6, spread=0.0)
    assert alike == pytest.approx(1000 * 0.5 / 4, rel=1e-4)  # 100 parts of 5 s, 25 for each of 4 workers
    driver = scale_simulation.makespan(1000, 10, 1000, each=0.5, commit=2.0, spread=0.0)
    assert driver == pytest.approx(5 + 100 * 2.0)
    apart = scale_simulation.makespan(1000, 10, 4, each=0.5, commit=1e-6, spread=0.3, seed=1)
    assert alike < apart < 1.2 * alike


def test_the_simulation_takes_its_costs_from_the_points(tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    with pytest.raises(SystemExit, match=r"run scale\.py points first"):
        next(scale_simulation.simulate([1], points))
    record(points, {"what": "pictures", "x": 101, "cpu": 60.0, "cpu_start": 10.0})
    for size in (10, 100):
        record(points, {"what": "commit", "x": size, "n": 4, "seconds": 4 * (0.01 + 0.001 * size)})
    one, many = scale_simulation.simulate([1, 1000], points)
    assert one["seconds_each"] == 0.5
    assert one["commit_seconds"] == pytest.approx(0.01 + 0.001 * one["part"])
    assert 0.95 < one["efficiency"] < 1
    assert many["driver_busy"] > 0.98
    assert many["seconds"] == pytest.approx(
        many["driver_busy"] ** -1 * -(-10_000_000 // many["part"]) * many["commit_seconds"]
    )
