"""The main job in process: plan, promise, fit, calibrate, save."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import flawforge as ff
from flawforge import fitting
from flawforge.fitting import Request, promised_rates
from flawforge.fitting.options import Options
from flawforge.forge import FORGERS
from flawforge.methods import METHODS
from flawforge.types import (
    CalibrationError,
    Collect,
    ConfigError,
    DataError,
    FlawforgeError,
    Forged,
    ImageError,
    Init,
    ModelError,
    Sample,
    Train,
    TrainingError,
)

TINY = dataclasses.asdict(METHODS["draem"].tiny)


def request(data: Path, out: Path, **options: Any) -> Request:
    return Request(data, out, **({"method": "draem", "steps": 3, "size": 64, "settings": TINY} | options))


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_same_seed_same_bits_and_another_seed_other_bits(washers: Path, tmp_path: Path) -> None:
    for name, options in {"a": {}, "b": {"workers": 4}, "c": {"seed": 1}}.items():
        fitting.run(request(washers, tmp_path / name, **options))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_fit_reads_nothing_but_good_training_pictures(washers: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(washers, tmp_path / "data"))
    fitting.run(request(data, tmp_path / "with"))
    shutil.rmtree(data / "test")
    shutil.rmtree(data / "ground_truth")
    fitting.run(request(data, tmp_path / "without"))
    assert weights(tmp_path / "with") == weights(tmp_path / "without")


def test_held_back_pictures_are_not_trained_on(washers: Path, tmp_path: Path) -> None:
    plan = fitting.plan(request(washers, tmp_path / "m"))
    train, held = {entry.path for entry in plan.train}, {entry.path for entry in plan.held}
    assert not train & held
    assert len(train | held) == 24
    assert len(fitting.load_pictures(plan)) == len(train)


def test_fit_in_memory_then_save_then_load(washers: Path, tmp_path: Path) -> None:
    inspector = ff.fit(washers, method="draem", steps=2, size=64, settings=TINY)
    picture = next((washers / "test" / "good").iterdir())
    inspector.save(tmp_path / "m")
    assert ff.load(tmp_path / "m")(picture).pred_score == inspector(picture).pred_score
    with pytest.raises(ConfigError, match=r"'minuts'.*minutes"):
        ff.fit(washers, minuts=3)  # type: ignore[call-arg]


def test_an_editor_is_told_every_option_of_fit() -> None:
    told, fields = get_type_hints(Options), get_type_hints(Request)
    text = {name: kind | str if name == "trunk" or kind == Path | None else kind for name, kind in fields.items()}
    text["trunk"] = str | Path | None
    assert told == {name: kind for name, kind in text.items() if name not in ("data", "out")}


@pytest.mark.parametrize("name", ["other_day", "textures", "roi", "ignore", "defects"])
def test_a_path_may_be_given_as_text(name: str, washers: Path, tmp_path: Path) -> None:
    """It is not there, and fit says so in a sentence."""
    with pytest.raises(FlawforgeError, match="nowhere"):
        ff.fit(washers, method="draem", steps=1, size=64, settings=TINY, **{name: str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("n", "asked", "rates", "notes"),
    [
        (200, (None, None), (0.01, 0.05), 0),
        (42, (None, None), (1 / 43, 0.05), 1),
        (6, (None, None), (1 / 7, 1 / 7), 1),
        (42, (0.1, None), (0.1, 0.1), 0),
        (42, (None, 0.5), (1 / 43, 0.5), 1),
        (99, (0.01, 0.02), (0.01, 0.02), 0),
    ],
)
def test_default_rates_follow_what_can_be_promised(
    n: int, asked: tuple[float | None, float | None], rates: tuple[float, float], notes: int
) -> None:
    found, said = promised_rates(n, *asked)
    assert found == pytest.approx(rates)
    assert len(said) == notes


def test_a_rate_that_no_hold_out_supports_is_refused_before_a_picture_is_read(washers: Path, tmp_path: Path) -> None:
    read: list[int] = []

    def plan(**asked: Any) -> Any:
        return fitting.plan(request(washers, tmp_path / "m", **asked), progress=lambda done, of: read.append(done))

    for asked in ({"false_alarm": 0.001}, {"review": 0.04}, {"false_alarm": 0.05, "confidence": 0.95}):
        with pytest.raises(CalibrationError, match=r"^5 calibration pictures do not support .*--holdout 0\.2 holds "):
            plan(**asked)
    with pytest.raises(CalibrationError, match=r"^6 calibration pictures do not support"):
        plan(false_alarm=0.001, holdout="00[0-5].png")
    with pytest.raises(DataError, match="no file name among 24 good pictures"):
        plan(false_alarm=0.001, holdout="none")
    assert read == []
    with pytest.raises(CalibrationError, match=r"^5 calibration pictures do not support"):
        plan(false_alarm=0.1)  # another hold-out of so many could
    assert read


def test_data_that_cannot_be_used_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = tmp_path / "gone"  # whoever loads it first fails with a ModelError
    for use in (ff.evaluate, ff.pod):
        with pytest.raises(DataError, match="empty"):
            use(model, tmp_path / "empty")
    model.mkdir()  # a folder to lock
    with pytest.raises(DataError, match="empty"):
        fitting.recalibrate(model, tmp_path / "empty", None, None)


def test_a_rate_that_was_asked_for_is_refused_before_training(washers: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="calibrate on 99 pictures"):
        fitting.run(request(washers, tmp_path / "m", false_alarm=0.01))
    with pytest.raises(ConfigError, match="at least as high"):
        fitting.run(request(washers, tmp_path / "m", false_alarm=0.5, review=0.4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "magic"}, ConfigError, "'magic'.*allowed are .*draem"),
        ({"profile": "tpu"}, ConfigError, "has cpu, paper"),
        ({"settings": {"bach": 4}}, ConfigError, "did you mean batch"),
        ({"settings": {"batch": "many"}}, ConfigError, "batch was given as 'many'"),
        ({"settings": {"batch": 0}}, ConfigError, "batch was given as 0"),
        ({"settings": {"schedule": "none"}}, ConfigError, "schedule was given as 'none'"),
        ({"steps": 0}, ConfigError, "above 0"),
        ({"minutes": 1.0}, ConfigError, "give one of the two"),
        ({"size": 8}, ConfigError, "size"),
    ],
)
def test_bad_settings(washers: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fitting.run(request(washers, tmp_path / "m", **options))
    assert list(tmp_path.iterdir()) == []


def test_one_picture_is_not_enough(washers: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(next((washers / "train" / "good").iterdir()), tmp_path / "data")
    with pytest.raises(TrainingError, match="1 readable good picture and at least 2"):
        fitting.run(request(tmp_path / "data", tmp_path / "m"))


def test_broken_files_among_good_ones_are_named_and_skipped(washers: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(washers / "train" / "good", tmp_path / "data"))
    files = sorted(data.iterdir())
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:300])
    report = fitting.plan(request(data, tmp_path / "m")).report
    assert report.count == 22
    assert {path for path, _ in report.unreadable} == {files[0], files[1]}
    fitting.run(request(data, tmp_path / "m"))
    assert str(files[0]) in (tmp_path / "m" / "config.json").read_text()


def test_a_region_of_interest_travels_from_fit_to_judging(washers: Path, tmp_path: Path) -> None:
    roi = np.zeros((64, 64), np.uint8)
    roi[:, :32] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    inspector = fitting.run(request(washers, tmp_path / "m", roi=tmp_path / "roi.png"))
    assert inspector.roi is not None
    loaded = ff.load(tmp_path / "m")
    assert loaded.roi is not None
    np.testing.assert_array_equal(loaded.roi, roi > 0)
    picture = np.zeros((64, 64, 3), np.uint8)
    changed = picture.copy()
    changed[:, 60:] = 255
    right = loaded(changed).anomaly_map[:, 32:]
    assert (right == right.min()).all()
    Image.fromarray(roi * 0).save(tmp_path / "black.png")
    with pytest.raises(ImageError, match="all black"):
        fitting.run(request(washers, tmp_path / "n", roi=tmp_path / "black.png"))


def test_what_is_to_be_ignored_is_taken_from_the_region_of_interest(washers: Path, tmp_path: Path) -> None:
    roi, ignored = np.zeros((64, 64), np.uint8), np.zeros((128, 128), np.uint8)
    roi[:, :32] = 255
    ignored[:64] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    Image.fromarray(ignored).save(tmp_path / "ignore.png")
    own = fitting.run(request(washers, tmp_path / "m", ignore=tmp_path / "ignore.png"))
    assert own.roi is not None
    np.testing.assert_array_equal(ff.load(tmp_path / "m").roi, ignored == 0)
    changed = np.zeros((64, 64, 3), np.uint8)
    changed[:4] = 255
    above = own(changed).anomaly_map[:32]
    assert (above == above.min()).all()
    both = fitting.plan(request(washers, tmp_path / "n", roi=tmp_path / "roi.png", ignore=tmp_path / "ignore.png")).roi
    assert both is not None
    assert both[32:, :32].all()
    assert both.sum() == 32 * 32
    Image.fromarray(255 - roi * 0).save(tmp_path / "white.png")
    with pytest.raises(ImageError, match="leaves nothing to judge"):
        fitting.plan(request(washers, tmp_path / "n", ignore=tmp_path / "white.png"))
    Image.fromarray(ignored[:64]).save(tmp_path / "wide.png")
    with pytest.raises(ImageError, match=r"The ignore mask .*wide.png is 128 x 64 pixels .*same proportions"):
        fitting.plan(request(washers, tmp_path / "n", ignore=tmp_path / "wide.png"))


def test_textures_from_a_folder_change_what_is_forged(washers: Path, tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)).save(tmp_path / "textures" / "a.png")
    fitting.run(request(washers, tmp_path / "a"))
    fitting.run(request(washers, tmp_path / "b", textures=tmp_path / "textures"))
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_mixed_sizes_grey_and_tall_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "ok").mkdir()
    for i in range(6):
        shape = (120 + 7 * i, 60) if i % 2 else (120, 60 + i, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "ok" / f"{i}.png")
    inspector = fitting.run(request(tmp_path, tmp_path / "m", holdout=0.34, size=128))
    assert inspector.canvas[0] > inspector.canvas[1]
    assert inspector(rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)).anomaly_map.shape == (60, 100)


def test_an_output_that_exists_is_refused_unread(washers: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "precious.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        fitting.run(request(washers, tmp_path / "m"))
    assert (tmp_path / "m" / "precious.txt").read_text() == "mine"
    with pytest.raises(ModelError, match="no checkpoint"):
        fitting.run(request(washers, tmp_path / "n"), resume=True)
    (tmp_path / "k.fitting").mkdir()
    (tmp_path / "k.fitting" / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="add --resume"):
        fitting.run(request(washers, tmp_path / "k"))


def test_recalibration_moves_the_threshold_and_keeps_the_weights(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    before = ff.load(folder)
    calibration, notes = fitting.recalibrate(folder, washers / "test" / "good", 0.5, 0.5)
    after = ff.load(folder)
    assert after.calibration == calibration != before.calibration
    assert calibration.n == 6
    assert notes[0].startswith("most anomalous calibration pictures")
    assert before.calibration is not None
    assert (before.calibration.again, calibration.again) == (None, "GOOD --false-alarm 0.5 --review 0.5")
    assert "NG limit moves from" in notes[-1]
    assert weights(folder) == weights(tiny_model)
    assert after.about["model_id"] == before.about["model_id"]
    with pytest.raises(CalibrationError, match="calibrate on 19 pictures"):
        fitting.recalibrate(folder, washers / "test" / "good", 0.05, None)
    assert ff.load(folder).calibration == calibration


def test_recalibration_goes_on_without_a_picture_that_cannot_be_judged(
    washers: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    good = Path(shutil.copytree(washers / "test" / "good", tmp_path / "good"))
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(good / "0.png")  # a picture, but too small to judge
    (good / "1.png").write_bytes(b"no picture")
    calibration, notes = fitting.recalibrate(folder, good, 0.5, 0.5, yes=True)
    assert calibration.n == 6
    assert sum(note.startswith("skipped: ") for note in notes) == 2


def test_forecast_is_measured(washers: Path, tmp_path: Path) -> None:
    plan = fitting.plan(request(washers, tmp_path / "m", steps=200))
    forecast = fitting.forecast(plan, fitting.load_pictures(plan))
    assert forecast.steps == 200
    assert forecast.minutes == pytest.approx(200 * forecast.seconds_per_step / 60)
    assert forecast.memory_bytes > 100 * 2**20
    assert "200 steps" in forecast.lines()[0]


def test_a_fit_killed_before_its_first_checkpoint_can_start_anew(washers: Path, tmp_path: Path) -> None:
    (tmp_path / "m.fitting").mkdir()
    with pytest.raises(ModelError, match="leave out --resume"):
        fitting.run(request(washers, tmp_path / "m"), resume=True)
    fitting.run(request(washers, tmp_path / "m"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_empty_texture_folder_is_refused(washers: Path, tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        fitting.run(request(washers, tmp_path / "m", textures=tmp_path / "textures"))


def test_a_method_whose_forger_wants_saliency_gets_it(washers: Path, tmp_path: Path) -> None:
    plan = fitting.plan(request(washers, tmp_path / "m"))
    salient = dataclasses.replace(plan, method=dataclasses.replace(plan.method, prior="foreground"))
    seen = []

    def forger(sample: Sample, rng: np.random.Generator) -> Forged:
        assert sample.prior is not None
        seen.append(float(sample.prior.mean()))
        return FORGERS["perlin"]()(sample, rng)

    fitting.load_pictures(salient).batch(forger, 0, 0, 4, forge_share=1.0)
    assert len(seen) == 4
    assert all(0 < mean <= 1 for mean in seen)
    assert fitting.load_pictures(plan)._prior is None


def _whole_net(net: Any, config: Any, init: Init) -> list[str]:
    try:
        net.load_state_dict(dict(init.tensors))
    except RuntimeError as error:
        raise ModelError(f"The weights do not fit ({str(error).splitlines()[0]}); give others.") from error
    return [f"started from {init.about.get('method', 'a file')}"]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """draem as a method that can start from a whole net of its kind."""
    monkeypatch.setitem(METHODS, "draem", dataclasses.replace(METHODS["draem"], start=_whole_net))


@pytest.mark.usefixtures("starts")
def test_a_fit_starts_from_a_model_or_a_file_and_says_so(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    fitting.run(request(washers, tmp_path / "plain"))
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["init"] is None
    outside = Path(shutil.copy(tiny_model / "model.safetensors", tmp_path / "outside.safetensors"))
    for name, init, known in (("folder", tiny_model, "draem"), ("file", outside, "a file")):
        model = fitting.run(request(washers, tmp_path / name, init=init))
        recorded = json.loads((tmp_path / name / "config.json").read_text())["init"]
        assert recorded["sha256"] == weights(tiny_model)
        assert recorded.get("method", "a file") == known
        assert f"started from {known}" in model.content.config["notes"]
        assert f"started from {known}" in (tmp_path / name / "README.md").read_text()
    assert weights(tmp_path / "folder") == weights(tmp_path / "file") != weights(tmp_path / "plain")
    again = ff.fit(washers, method="draem", steps=3, size=64, settings=TINY, init=str(outside))
    assert again.content.tensors == (tmp_path / "file" / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("starts")
def test_a_run_is_not_resumed_from_another_start(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    names = set()
    for init in (None, tiny_model, Path(shutil.copy(tiny_model / "model.safetensors", tmp_path / "outside.safetensors"))):
        names.add(fitting.identity(fitting.plan(request(washers, tmp_path / "m", init=init))))
    assert len(names) == 3


@pytest.mark.parametrize("what", ["good", "textures"])
def test_a_run_is_not_resumed_with_other_pictures_of_the_same_names(washers: Path, tmp_path: Path, what: str) -> None:
    """A BMP of the same size in pixels has the same size in bytes, whatever it shows."""
    for name in ("good", "textures"):
        (tmp_path / name).mkdir()
    for number, path in enumerate(sorted((washers / "train" / "good").iterdir())):
        for name in ("good", "textures"):
            Image.open(path).save(tmp_path / name / f"{number}.bmp")
    asked = request(tmp_path / "good", tmp_path / "m", textures=tmp_path / "textures")
    before = fitting.identity(fitting.plan(asked))
    assert fitting.identity(fitting.plan(asked)) == before
    changed = tmp_path / what / "3.bmp"
    size = changed.stat().st_size
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    assert changed.stat().st_size == size
    assert fitting.identity(fitting.plan(asked)) != before


@pytest.mark.parametrize("option", ["roi", "ignore"])
def test_a_run_is_not_resumed_with_another_mask(washers: Path, tmp_path: Path, option: str) -> None:
    """The mask is painted over between the two runs; its path stays. With the first mask again, the run goes on."""
    mask = tmp_path / "mask.png"
    options: dict[str, Any] = {option: mask, "checkpoint_every": 0.0}

    def paint(columns: int) -> None:
        half = np.zeros((64, 64), np.uint8)
        half[:, :columns] = 255
        Image.fromarray(half).save(mask)

    def stop(tick: Any) -> None:
        if tick.step == 2:
            raise KeyboardInterrupt

    paint(32)
    with pytest.raises(KeyboardInterrupt):
        fitting.run(request(washers, tmp_path / "m", **options), on_tick=stop)
    paint(40)
    with pytest.raises(TrainingError, match="belongs to a run with other data or settings"):
        fitting.run(request(washers, tmp_path / "m", **options), resume=True)
    paint(32)
    fitting.run(request(washers, tmp_path / "m", **options), resume=True)


@pytest.mark.usefixtures("starts")
def test_what_cannot_be_started_from_is_refused(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.pth").write_bytes(b"\x80\x04.")
    (tmp_path / "torn.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:200])
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    before = sorted(tmp_path.iterdir())
    for init, error, words in (
        ("none", ConfigError, "no such file"),
        ("net.pth", ConfigError, "pickle can run code"),
        ("empty", ModelError, "not a flawforge model folder"),
        ("torn.safetensors", ModelError, "cannot be read"),
        ("other.safetensors", ModelError, "do not fit"),
    ):
        with pytest.raises(error, match=words):
            fitting.run(request(washers, tmp_path / "m", init=tmp_path / init))
    with pytest.raises(ConfigError, match=r"--init was given, but method patchstats .*draem.* leave out --init"):
        fitting.run(Request(washers, tmp_path / "m", method="patchstats", init=tiny_model))
    assert sorted(tmp_path.iterdir()) == before


def test_a_stage_may_have_a_forger_of_its_own_and_maps_come_from_the_network(washers: Path, tmp_path: Path) -> None:
    plan = fitting.plan(request(washers, tmp_path / "m"))
    plan = dataclasses.replace(plan, method=dataclasses.replace(plan.method, prior="network"))
    seen: list[Sample] = []

    def own(sample: Sample, rng: np.random.Generator) -> Forged:
        seen.append(sample)
        return FORGERS["perlin"]()(sample, rng)

    class Net:
        def priors(self, index: int) -> list[Any]:
            return [np.full((8, 8), index / 100, np.float32)]

    look = Collect("look", lambda net: None, lambda net, state, batch: None, lambda net, state: None)
    stages = [Train("one", []), look, Train("two", [], forger=own)]
    pictures = fitting.load_pictures(plan)
    batch = fitting.batches(plan, pictures, Net(), stages)
    batch(0, 0)
    assert not seen
    forged = batch(2, 0)
    assert len(seen) == (forged.kind > 0).sum() > 0
    index = forged.index[forged.kind > 0]
    np.testing.assert_allclose([s.prior.mean() for s in seen if s.prior is not None], index / 100, atol=1e-6)


def test_pictures_of_one_part_stay_together_and_count_once(washers: Path, tmp_path: Path) -> None:
    """24 pictures named 000 to 023: eight parts of three shots each."""
    folder = tmp_path / "good"
    folder.mkdir()
    for index, path in enumerate(sorted((washers / "train" / "good").iterdir())):
        shutil.copy(path, folder / f"part{index // 3}_{index % 3}.png")
    made = fitting.plan(request(folder, tmp_path / "m", group_by=r"part(\d+)_", holdout=0.5))
    sides = [{entry.path.name.split("_")[0] for entry in side} for side in (made.train, made.held)]
    assert not sides[0] & sides[1]
    assert made.rates[0] == pytest.approx(1 / (len(sides[1]) + 1))
    model = fitting.run(request(folder, tmp_path / "m", group_by=r"part(\d+)_", holdout=0.5), made=made)
    assert model.calibration is not None
    assert model.calibration.per_part
    assert model.calibration.n == len(sides[1]) < len(made.held)
    shots = {name: [e.path for e in made.held if e.path.name.startswith(f"{name}_")] for name in sides[1]}
    highest = {name: max(model(path).pred_score for path in paths) for name, paths in shots.items()}
    assert sorted(highest.values()) == pytest.approx(model.calibration.scores)
    for pattern, words in (("(", "no regular expression"), ("nothing", "does not match good/part0_0")):
        with pytest.raises(DataError, match=words):
            fitting.plan(request(folder, tmp_path / "n", group_by=pattern))


def test_parts_from_a_csv_column(washers: Path, tmp_path: Path) -> None:
    rows = [f"{path},{index // 4}" for index, path in enumerate(sorted((washers / "train" / "good").iterdir()))]
    listed = tmp_path / "parts.csv"
    listed.write_text("image_path,group\n" + "\n".join(rows))
    made = fitting.plan(request(listed, tmp_path / "m", holdout=0.3))
    assert made.parts is not None
    assert not {entry.group for entry in made.train} & {entry.group for entry in made.held}
    listed.write_text("image_path,group\n" + "\n".join([*rows[:-1], rows[-1].rstrip("0123456789")]))
    with pytest.raises(DataError, match="filled for 23 of 24"):
        fitting.plan(request(listed, tmp_path / "m"))


def test_a_confidence_is_kept_or_refused_before_training(washers: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"with 0\.95 confidence: .*calibrate on 59 pictures"):
        fitting.plan(request(washers, tmp_path / "m", false_alarm=0.05, confidence=0.95))
    made = fitting.plan(request(washers, tmp_path / "m", confidence=0.95))
    assert made.rates[0] == pytest.approx(1 - 0.05 ** (1 / len(made.held)))
    assert any("with 0.95 confidence" in note for note in made.notes)


def test_a_folder_of_test_pictures_alone_has_nothing_to_learn_from(washers: Path, tmp_path: Path) -> None:
    shutil.copytree(washers / "test", tmp_path / "parts" / "test")
    with pytest.raises(TrainingError, match=r"parts has no folder train/good .* test are never learnt from"):
        fitting.plan(request(tmp_path / "parts", tmp_path / "m"))
    table = tmp_path / "bad.csv"
    table.write_text(f"image_path,label\n{next((washers / 'test' / 'dent').iterdir())},1\n")
    with pytest.raises(TrainingError, match="holds 0 readable good pictures"):
        fitting.plan(request(table, tmp_path / "m"))
