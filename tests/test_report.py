"""The report is one page that fetches nothing, escapes everything, names what is missing and repeats its figures."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.stats import betabinom

from flawforge.demo import washers
from flawforge.pictures.check import DataReport, check_data
from flawforge.pictures.listing import read_entries
from flawforge.proving import evaluate, intervals
from flawforge.reporting import charts, report
from flawforge.reporting import page as page_of
from flawforge.reporting.answer import chance_of_alarms
from flawforge.reporting.commands import commands
from flawforge.reporting.kept import album
from flawforge.types import ConfigError, ModelError, ScoreRule
from flawforge_runtime import bundle, images
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.inspector import Inspector, Network
from flawforge_runtime.rates import rank

HOSTILE = "<img src=x onerror=alert(1)>.png"
SIZE = 128


def make_model(
    folder: Path,
    *,
    calibrated: bool = True,
    evaluated: bool = True,
    told: bool = True,
    name: str = HOSTILE,
    size: int = SIZE,
    good: int = 40,
    per_kind: int = 5,
) -> Path:
    """A model folder as `fit` and `evaluate` leave it: rendered washers, judged for real by a plain detector."""
    parts = washers.write_demo_parts(folder.parent / "parts", good=good, test_good=20, per_kind=per_kind, size=size)
    (parts / "test/good/000.png").rename(parts / "test/good" / name)
    for top, ending in (("test", ".png"), ("ground_truth", "_mask.png")):  # a hostile name for the kind as well
        (parts / top / "chip" / f"000{ending}").rename(parts / top / "chip" / f"{name[:-4]}{ending}")
        (parts / top / "dent").rename(parts / top / name[:-4])
    entries = read_entries(parts)
    train = [entry.path for entry in entries if entry.split == "train"]
    network = deviation([images.read_picture(path).pixels for path in train[: len(train) // 2]])
    inspector = Inspector(network, (size, size), ScoreRule(smooth=3))
    judged = [inspector.judge(images.read_picture(path)) for path in train[len(train) // 2 :]]
    calibration = calibrate([j.score for j in judged], 0.05, review=0.15, peaks=[j.peak for j in judged])
    (parts / "train/good" / name).write_bytes(b"")
    checked = check_data([entry for entry in read_entries(parts) if entry.split == "train"])
    config = make_config(size, checked if told else None)
    content = bundle.Content(config, b"weights", calibration if calibrated else None, "# Model card\n\nWashers.\n")
    bundle.write(folder, content)
    if evaluated and calibrated:
        inspector = replace(inspector, calibration=calibration, about=bundle.about(content))
        result = evaluate.evaluate(inspector, entries, bootstrap=50)
        evaluate.save_evaluation(folder, result, evaluate.draw_telling(inspector, entries, result))
    return folder


def write_report(model: Path, out: Path) -> Path:
    path = report.report(model, out).path
    assert path is not None
    return path


def make_config(size: int, checked: DataReport | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "format": 1,
        "method": "draem",
        "profile": "cpu",
        "settings": {"width": 16},
        "canvas": [size, size],
        "seed": 0,
        "flawforge_version": "0.1.0",
        "created": "2025-01-31T12:00:00+00:00",
        "score_rule": {"reduce": "max"},
    }
    if checked is None:
        return config
    steps = np.arange(0, 240, 2)
    noise = np.random.default_rng(0).lognormal(0, 0.1, (len(steps), 3))
    losses = np.stack([a * np.exp(-steps / b) + a / 12 for a, b in ((0.02, 60), (0.6, 90), (0.1, 40))], axis=1)
    return config | {
        "training": {"minutes": 1.5, "steps": 240, "pictures": checked.count, "seconds": 90.2},
        "data_report": checked.as_dict(),
        "history": [
            {"stage": "train", "step": int(step), "losses": dict(zip(("l2", "ssim", "focal"), row, strict=True))}
            for step, row in zip(steps, (losses * noise).tolist(), strict=True)
        ],
    }


def deviation(pictures: list[Any]) -> Network:
    """How far each pixel lies from its mean over good pictures, in deviations: a detector without weights."""
    stack = np.stack(pictures).astype(np.float32).transpose(0, 3, 1, 2) / 255
    mean, spread = stack.mean(axis=0), stack.std(axis=0) + 0.02

    def network(batch: Any) -> tuple[Any, Any]:
        maps = (np.abs(batch - mean) / spread).max(axis=1)
        maps = np.stack([cv2.GaussianBlur(one, (0, 0), one.shape[0] / 100) for one in maps])
        return maps, maps.max(axis=(1, 2))

    return network


def edit(model: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the model's evaluation and give the page made of it."""
    file = album(model, "evaluation") / "evaluation.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return page_of.report_html(report.report_facts(model)).replace("\u00a0", " ")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "m"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "washers")


@pytest.fixture(scope="module")
def page(model: Path) -> str:
    return write_report(model, model.parent / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Every tag with its attributes, and all text by the id of the nearest element that has one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str]] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append((tag, dict(attrs).get("id") or (self.open[-1][1] if self.open else "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1][1] if self.open else ""
        self.text[where] = self.text.get(where, "") + " " + data


def test_the_page_is_well_formed(page: str) -> None:
    assert Page(page).open == []


def test_the_page_fetches_nothing_and_runs_its_own_script_alone(page: str) -> None:
    own = (Path(report.__file__).parent / "templates" / "report.js").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script.strip() == own.strip()
    assert not re.search(
        r"fetch|XMLHttp|WebSocket|import|eval|innerHTML|insertAdjacent|document\.write|https?:|Function\(", own
    )
    assert [attributes for tag, attributes in Page(page).tags if tag == "script"] == [{}]
    for tag, attributes in Page(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
                assert value is not None
                assert value.startswith("data:"), (tag, key, value[:60])
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_names_are_shown_and_never_become_markup(page: str) -> None:
    parsed = Page(page)
    assert not [1 for tag, attributes in parsed.tags if tag == "img" and attributes.get("src") == "x"]
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page
    for section, name in (("pictures", HOSTILE), ("data", HOSTILE), ("kinds", HOSTILE[:-4])):
        assert name in parsed.text[section]


def test_the_data_check_is_told(page: str) -> None:
    text = " ".join(Page(page).text["data"].split())
    assert f"Pictures 40 all of {SIZE} × {SIZE} pixels" in text
    assert "40 8-bit RGB" in text
    assert "Unreadable 1 left out" in text


def test_hostile_names_do_nothing_in_markdown(model: Path) -> None:
    text = page_of.report_markdown(report.report_facts(model))
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt; |" in text  # a kind of defect has that name


def test_the_figures_on_the_page_are_those_of_the_evaluation(page: str, model: Path) -> None:
    data = json.loads((album(model, "evaluation") / "evaluation.json").read_text())
    text = {key: " ".join(value.split()) for key, value in Page(page).text.items()}
    for path in page_of.METRICS.keys() - {"pixel.peak_on_defect"}:
        group, key = path.split(".", 1)
        for number in data[group][key].values():
            assert f"{number:.3f}" in text[path], path
    point = data["operating_point"]
    for key in ("false_alarm_rate", "escape_rate", "passed_rate"):
        for number in point[key].values():
            words = f"{100 * number:.1f}".removesuffix(".0") + " %"
            assert words in text[f"operating_point.{key}"]
            assert key == "passed_rate" or words in text["answer"]
    defective = [row for row in data["pictures"] if row["label"]]
    missed = sum(row["verdict"] != "NG" for row in defective)
    assert f"{missed} of {len(defective)} defective pictures not rejected" in text["answer"]
    for row in data["pictures"]:
        assert f"{row['score']:.4g}" in text["pictures"]


def test_the_expected_rate_is_stated_in_two_numbers_with_what_it_rests_on(page: str) -> None:
    answer = " ".join(Page(page).text["answer"].split())
    assert "4.8 % expected, up to 13.9 % for this model" in answer
    assert (
        "Expect 4.8 % of good parts to be rejected (NG) on average, and up to 13.9 % by this model (95 % confidence). "
        "With 20 calibration pictures it cannot be set lower; 1 % needs 99." in answer
    )
    assert answer.count("Higher score = more anomalous") == 1
    text = " ".join(" ".join(Page(page).text.values()).split())
    assert "stranger" not in text
    assert "at most" not in text.lower()
    assert "≤ 5 %" not in text
    for word in ("promise", "carry", "forged", "held-back", "proof folder"):
        assert word not in text.replace("--false-alarm", ""), word


def test_without_criteria_no_yes_and_with_them_an_exit_code(model: Path, tmp_path: Path) -> None:
    page = page_of.report_html(report.report_facts(model))
    assert "No acceptance criteria given." in page
    assert 'class="headline good"' not in page
    found = report.report(model, tmp_path / "r.html", accept_false_alarms=0.9, accept_escapes=0.9)
    assert found.exit_code == 0
    assert [line.split(":")[0].strip() for line in found.lines()] == ["report", "PASS", "PASS"]
    text = (tmp_path / "r.html").read_text()
    assert "accepted 90 %" in text
    assert "No acceptance criteria given." not in text
    assert report.report(model, accept_false_alarms=0.0001).exit_code in (5, 6)


def test_criteria_are_not_held_against_an_evaluation_of_another_state(copy: Path) -> None:
    edit(copy, lambda data: data["model"].update(model_id="other"))
    found = report.report(copy, accept_false_alarms=0.9, accept_escapes=0.9)
    assert found.exit_code == 5
    assert "not measured at these limits" in found.facts["acceptance"]["criteria"][0]["text"]


def test_the_first_screen_shows_a_good_part_the_best_catch_and_the_worst_miss(page: str, model: Path) -> None:
    text = " ".join(Page(page).text["answer"].split())
    data = json.loads((album(model, "evaluation") / "evaluation.json").read_text())
    groups = {row["group"]: row for row in data["overlays"] if row["panels"] == 1}
    assert "A good part OK" in text
    assert "Best catch NG" in text
    best = max((row for row in data["pictures"] if row["label"] and row["verdict"] == "NG"), key=lambda row: row["score"])
    assert groups["top_catch"]["kind"] in {row["kind"] for row in data["pictures"]}
    assert groups["top_catch"]["score"] <= best["score"]
    missed = [row for row in data["pictures"] if row["label"] and row["verdict"] != "NG"]
    assert ("Worst miss" in text) == bool(missed)
    assert f"{20} good and {data['counts']['defective']} defective pictures" in text


def test_where_no_real_defect_was_missed_a_synthetic_one_is_shown(copy: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    images.write_image(copy / "miss.webp", picture)
    facts = report.report_facts(copy)
    caught = [row for row in facts["evaluation"]["overlays"] if row["group"] not in ("escape", "top_miss")]
    facts["evaluation"]["overlays"] = caught
    titles = [shown["title"] for shown in page_of._first(facts)]
    assert titles == ["A good part", "Best catch", "Worst miss"]
    assert page_of._first(facts)[2]["uri"] is None
    (copy / "proof").mkdir()
    shutil.move(copy / "miss.webp", copy / "proof" / "miss.webp")
    row = {"file": "miss.webp", "group": "top_miss", "panels": 1, "kind": "dent", "size": 9.0, "unit": "px", "contrast": 0.3}
    facts["proof"] = {"overlays": [row | {"score": 1.0, "path": "a/b.png", "verdict": "OK"}]}
    last = page_of._first(facts)[2]
    assert (last["title"], last["figures"]) == ("Worst miss (synthetic)", "dent, 9 px, contrast 30 %; score 1")


def test_an_evaluation_of_an_older_version_shows_its_pairs(copy: Path) -> None:
    def older(data: dict[str, Any]) -> None:
        data["overlays"] = [
            {key: value for key, value in row.items() if key != "panels"}
            for row in data["overlays"]
            if not row["group"].startswith("top_")
        ]

    page = edit(copy, older)
    assert "Left: pink outlines" in page
    assert 'class="pictures two"' in page
    assert 'class="pictures six"' not in page
    assert "Best catch" in page


def test_title_note_and_logo_are_shown_and_escaped(model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "logo.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    for logo in ("logo.png", "logo.svg"):
        made = report.report(model, title="Washer <b>x7</b>", note="Line 3\nCamera <i>", logo=tmp_path / logo)
        page = made.text()
        assert "<b>x7</b>" not in page
        assert "Washer &lt;b&gt;x7&lt;/b&gt;" in page
        assert "Camera &lt;i&gt;" in page
        assert f"model folder <b>{model.name}</b>" in page
        (first, *_) = [attributes["src"] for tag, attributes in Page(page).tags if tag == "img"]
        assert first is not None
        assert base64.b64decode(first.split(",", 1)[1]) == (tmp_path / logo).read_bytes()
        assert "alert(1)</script>" not in page
    for name, content in (("none.png", None), ("text.png", b"hello"), ("logo.gif", b"GIF89a"), ("big.svg", b"<svg" * 10**6)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="logo") as wrong:
            report.report(model, logo=tmp_path / name)
        assert "\n" not in str(wrong.value)


def test_verdicts_stand_against_labels(page: str, model: Path) -> None:
    rows = json.loads((album(model, "evaluation") / "evaluation.json").read_text())["pictures"]
    table = {row["label"]: row for row in page_of.confusion(rows)}
    for label, name in ((0, "good"), (1, "defective")):
        mine = [row for row in rows if row["label"] == label]
        assert table[name]["count"] == len(mine)
        for cell in table[name]["cells"]:
            assert cell["count"] == sum(row["verdict"] == cell["verdict"] for row in mine)
    assert page_of.confusion([]) == []
    kept = [row for row in rows if row["verdict"] != "REVIEW"]  # of a model with one limit
    assert [cell["verdict"] for cell in page_of.confusion(kept, review=False)[0]["cells"]] == ["OK", "NG"]
    assert [cell["verdict"] for cell in page_of.confusion(kept)[0]["cells"]] == ["OK", "REVIEW", "NG"]
    assert "judged REVIEW" in page


@pytest.mark.parametrize(
    ("escape", "passed", "words"),
    [
        (1, 1, "It was judged OK."),
        (2, 2, "Both were judged OK."),
        (4, 4, "All 4 were judged OK."),
        (3, 1, "1 judged OK, 2 sent to REVIEW."),
        (0, 0, "0 of 40 defective pictures not rejected"),
    ],
)
def test_where_the_missed_defects_went_is_said_only_where_some_went_there(
    copy: Path, escape: int, passed: int, words: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["operating_point"]["escape_rate"] = intervals.rate(escape, 40)._asdict()
        data["operating_point"]["passed_rate"] = intervals.rate(passed, 40)._asdict()
        data["counts"].update(defective=40)

    text = " ".join(Page(edit(copy, change)).text["answer"].split())
    assert words in text
    assert "others REVIEW" not in text
    if not escape:
        assert "All 0" not in text
        assert "sent to REVIEW" not in text


def test_the_slider_ships_all_scores_and_says_the_counts_in_use(page: str, model: Path) -> None:
    data = json.loads((album(model, "evaluation") / "evaluation.json").read_text())
    (slider,) = [attributes for tag, attributes in Page(page).tags if tag == "input"]
    assert slider["data-scores"] is not None
    shipped = json.loads(slider["data-scores"])
    for key, label in (("good", 0), ("defective", 1)):
        assert shipped[key] == [row["score"] for row in data["pictures"] if row["label"] == label]
    limit = data["operating_point"]["threshold"]
    alarms, found = (sum(score > limit for score in shipped[key]) for key in ("good", "defective"))
    text = " ".join(Page(page).text["scores"].split())
    assert f"{alarms} of 20 good pictures rejected, {found} of {len(shipped['defective'])} defects found" in text
    axis = charts.Axis(shipped["axis"]["low"], shipped["axis"]["high"], 0, 1, log=shipped["axis"]["log"])
    assert axis(limit) == pytest.approx(float(slider["value"] or ""))


def test_scores_that_are_not_the_networks_own_are_named_below_the_histogram(copy: Path) -> None:
    """Pictures that fail the guard share a raised score, which looks like an error where nobody says so."""

    def change(data: dict[str, Any]) -> None:
        for row in data["pictures"]:
            row["valid"] = row["label"] == 0

    text = " ".join(Page(edit(copy, change)).text["scores"].split())
    assert re.search(r"\d+ pictures are unlike every good picture and therefore NG, with a score that is raised", text)
    assert charts.raised([{"valid": True}, {}]) == ""
    assert charts.raised([{"valid": False}]).startswith("1 picture is unlike")


def test_times_are_readable_and_internals_folded_away(page: str) -> None:
    text = " ".join(" ".join(Page(page).text.values()).split())
    assert "made 31 January 2025, 12:00 UTC" in text
    assert "2025-01-31T12" not in re.sub(r"<pre>.*?</pre>|data:[^\"]*", "", page, flags=re.DOTALL)
    folded = " ".join(re.findall(r"<details>.*?</details>", page, re.DOTALL))
    for inside in ('"width": 16', "sha256", "Training losses"):
        assert inside in folded
        assert inside not in re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)


def test_every_overlay_is_embedded_as_it_lies_in_the_folder(page: str, model: Path) -> None:
    sources = [attributes["src"] for tag, attributes in Page(page).tags if tag == "img"]
    data = json.loads((album(model, "evaluation") / "evaluation.json").read_text())
    assert len(sources) == len(data["overlays"]) > 4
    embedded = {base64.b64decode(source.split(",", 1)[1]) for source in sources if source}
    assert embedded == {(album(model, "evaluation") / row["file"]).read_bytes() for row in data["overlays"]}


def test_the_json_in_the_page_is_the_json_report(page: str, model: Path, tmp_path: Path) -> None:
    [link] = [attributes["href"] for tag, attributes in Page(page).tags if tag == "a" and "download" in attributes]
    assert link is not None
    inside = json.loads(base64.b64decode(link.split(",", 1)[1]))
    assert inside == json.loads(write_report(model, tmp_path / "r.json").read_text())
    assert inside["evaluation"] == json.loads((album(model, "evaluation") / "evaluation.json").read_text())


@pytest.mark.parametrize(
    ("pieces", "sentence", "command"),
    [
        ({"evaluated": False}, "has not been tested", "flawforge evaluate m DATA"),
        ({"calibrated": False}, "no thresholds", "flawforge calibrate m GOOD"),
        ({"told": False}, "No training losses", "flawforge fit DATA -o NEW_MODEL"),
    ],
)
def test_a_missing_piece_is_named_with_its_command(
    tmp_path: Path, pieces: dict[str, bool], sentence: str, command: str
) -> None:
    model = make_model(tmp_path / "m", size=64, per_kind=1, **pieces)
    facts = report.report_facts(model)
    for text in (page_of.report_html(facts), page_of.report_markdown(facts)):
        assert sentence in text
        assert command in text
    assert Page(page_of.report_html(facts)).open == []


def test_the_commands_repeat_what_was_given_and_nothing_else(model: Path, tmp_path: Path) -> None:
    facts = report.report_facts(model)
    training = {"pictures": 9, "minutes": 2.0, "steps": 70, "asked": {"minutes": 2.0, "false_alarm": 1 / 61, "clean": True}}
    training["asked"] |= {"roi": "PATH", "tolerate": "turn,shift", "settings": {"batch": 4}}
    config = {**facts["config"], "method": "padim", "seed": 3, "training": training}
    plain = {**facts, "name": "a b", "config": config, "proof": None, "acceptance": None}
    first, *others = commands(plain)
    assert first == (
        "flawforge fit DATA -o 'a b' --method padim --minutes 2.0 --false-alarm 0.01639344262295082 --clean --roi PATH "
        "--tolerate turn,shift --seed 3 --set batch=4"
    )
    assert others == [
        "flawforge evaluate 'a b' DATA --json evaluation.json",
        "flawforge pod 'a b' DATA --json pod.json",
        "flawforge report 'a b' -o report.html",
    ]
    again = {
        **plain,
        "config": {**config, "training": {"steps": 70}},  # as an older version left it
        "calibration": {**facts["calibration"], "again": "GOOD --false-alarm 0.05 --yes", "folds": 0},
        "proof": {"recipe": {"count": 32, "seed": 1}},
        "acceptance": {"criteria": [{"name": "false alarms", "accepted": 0.02}, {"name": "escapes", "accepted": 0.1}]},
    }
    assert commands(again) == [
        "flawforge fit DATA -o 'a b' --method padim --steps 70 --seed 3",
        "flawforge calibrate 'a b' GOOD --false-alarm 0.05 --yes",
        "flawforge evaluate 'a b' DATA --json evaluation.json",
        "flawforge pod 'a b' DATA --count 32 --seed 1 --json pod.json",
        "flawforge report 'a b' -o report.html --accept-false-alarms 0.02 --accept-escapes 0.1",
    ]
    for text in (page_of.report_markdown(plain), page_of.report_html(plain).replace("&#39;", "'")):
        assert "\n".join(commands(plain)) in text


def test_masks_scores_and_whole_classes_may_be_missing(copy: Path) -> None:
    none = {"value": None, "low": None, "high": None}
    text = edit(copy, lambda data: data.update(pixel=None, pictures=[], overlays=[]))
    assert "had no usable masks" in text
    assert "kept no scores per picture" in text
    text = edit(copy, lambda data: data["operating_point"].update(false_alarm_rate=none, escape_rate=none, passed_rate=none))
    assert "has not been measured" in text
    assert text.count("Not measured yet.") == 2


def test_an_overlay_outside_the_folder_is_not_embedded(copy: Path) -> None:
    (copy.parent / "secret.png").write_bytes(b"\x00\xff not yours")
    rows = [{"file": name, "group": "good"} for name in ("../../secret.png", str(copy.parent / "secret.png"), "gone.png")]
    text = edit(copy, lambda data: data.update(overlays=rows))
    assert base64.b64encode(b"\x00\xff not yours").decode() not in text
    assert text.count("is missing from the evaluation folder") == 3


def test_an_evaluation_of_another_threshold_or_model_is_called_stale(copy: Path) -> None:
    stale = "another state of this model"
    assert stale not in edit(copy, lambda data: None)
    threshold = json.loads((copy / "calibration.json").read_text())["threshold"]
    assert stale in edit(copy, lambda data: data["operating_point"].update(threshold=threshold * 1.01))
    assert stale not in edit(copy, lambda data: data["operating_point"].update(threshold=threshold))
    assert stale in edit(copy, lambda data: data["model"].update(model_id="other"))


def test_the_answer_follows_the_figures(copy: Path) -> None:
    def figures(alarms: int, peaks: int) -> Callable[[dict[str, Any]], object]:
        def change(data: dict[str, Any]) -> None:
            data["operating_point"]["false_alarm_rate"] = intervals.rate(alarms, 40)._asdict()
            data["operating_point"]["escape_rate"] = intervals.rate(2, 40)._asdict()
            data["pixel"]["peak_on_defect"] = intervals.rate(peaks, 40)._asdict()
            data["counts"].update(good=40, defective=40)

        return change

    sound = edit(copy, figures(2, 40))
    assert "Not yet: no acceptance criteria were given, and it may miss up to 16.9 % of defects like those tested" in sound
    alarmed = edit(copy, figures(20, 40))
    assert "Not yet: the red notes below must be cleared first" in alarmed
    assert "more than the expected 4.8 % by more than chance explains" in alarmed
    assert "right for the wrong reason. Look at the pictures" in edit(copy, figures(2, 20))
    few = "20 defective pictures are few: more of them would narrow the intervals."
    assert few not in edit(copy, figures(2, 40))
    assert f">{few}" in edit(copy, lambda data: data["counts"].update(defective=20)).replace("\u00a0", " ")
    high = {"value": 0.5, "low": 0.3, "high": 0.7}
    assert "No: it may miss up to 70 % of" in edit(copy, lambda data: data["operating_point"].update(escape_rate=high))


@pytest.mark.parametrize(
    ("alarms", "good", "n", "rate"), [(0, 10, 20, 0.05), (3, 10, 20, 0.05), (7, 40, 99, 0.03), (40, 40, 19, 0.5)]
)
def test_the_chance_of_alarms_is_the_beta_binomial_tail(alarms: int, good: int, n: int, rate: float) -> None:
    calibration = calibrate(range(n), rate)
    k = rank(n, rate)
    oracle = betabinom.sf(alarms - 1, good, k, n + 1 - k)
    assert chance_of_alarms(alarms, good, calibration.rate_ng) == pytest.approx(oracle, rel=1e-9)


def test_one_verdict_less_where_both_thresholds_are_one(copy: Path, tmp_path: Path) -> None:
    content = bundle.read(copy)
    assert content.calibration is not None
    one = replace(content, calibration=replace(content.calibration, review=content.calibration.false_alarm))
    bundle.write(tmp_path / "one", one)
    assert '<div class="review">' in page_of.report_html(report.report_facts(copy))
    assert '<div class="review">' not in page_of.report_html(report.report_facts(tmp_path / "one"))


def test_scores_that_are_not_finite_become_null_in_the_json(copy: Path) -> None:
    text = edit(copy, lambda data: data["pictures"][3].update(score=math.inf))
    assert json.loads(page_of.report_json(report.report_facts(copy)))["evaluation"]["pictures"][3]["score"] is None
    assert not re.search(r'="(nan|inf|-inf)', text)


def test_what_cannot_be_written_or_read_is_one_sentence(tmp_path: Path, model: Path, copy: Path) -> None:
    for out in (tmp_path / "report.docx", tmp_path / "no" / "report.html", tmp_path):
        with pytest.raises(ConfigError) as wrong:
            write_report(model, out)
        assert "\n" not in str(wrong.value)
    with pytest.raises(ModelError):
        write_report(tmp_path, tmp_path / "report.html")
    (album(copy, "evaluation") / "evaluation.json").write_text("{")
    with pytest.raises(ModelError, match=r"evaluation\.json is not a JSON object"):
        write_report(copy, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_is_handed_on_names_no_file_of_the_good_pictures() -> None:
    config = {"method": "m", "held_back": ["/plant/7.png"], "training": {"pictures": 9, "fingerprints": ["0123456789ab"]}}
    assert report._shown(config) == {"method": "m", "training": {"pictures": 9}}


def test_harmed_results_are_one_sentence(model: Path, tmp_path: Path) -> None:
    """One value of evaluation, proof or drift changed in type, made extreme or taken away: a report or a sentence."""
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    files = [each for name in ("evaluation", "proof", "drift") if (each := album(folder, name) / f"{name}.json").is_file()]
    assert files
    rng = random.Random(4)
    refused, sentences = 0, []
    for number in range(60):
        file = files[number % len(files)]
        before = file.read_bytes()
        file.write_text(json.dumps(harm_json(json.loads(before), rng)))
        try:
            write_report(folder, tmp_path / "report.html")
        except ModelError as error:
            refused += 1
            sentences.append(str(error))
        file.write_bytes(before)
    assert 5 < refused < 60
    assert not any("\n" in sentence for sentence in sentences)
    write_report(folder, tmp_path / "report.html")


def harm_json(data: Any, rng: random.Random) -> Any:
    if isinstance(data, dict) and data and rng.random() < 0.8:
        key = rng.choice(sorted(data))
        if rng.random() < 0.2:
            return {name: value for name, value in data.items() if name != key}
        return data | {key: harm_json(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.8:
        place = rng.randrange(len(data))
        return [*data[:place], harm_json(data[place], rng), *data[place + 1 :]]
    return rng.choice([None, True, -1, 10**30, 1e308, "", "x" * 999, [], {}, [[]], {"a": 1}, float("nan")])


def test_a_rate_that_cannot_be_stated_is_not_shown(tmp_path: Path) -> None:
    content = bundle.Content(make_config(64, None), b"weights", calibrate([0.1, 0.2], 1 / 3), "# Model card\n\nWashers.\n")
    bundle.write(tmp_path / "few", content)
    page = write_report(tmp_path / "few", tmp_path / "few.html").read_text()
    assert "not known <small>too few calibration pictures</small>" in page
    assert "Expect 33.3 %" not in page
    assert '<p class="big">33.3 %' not in page


def test_a_miss_that_was_rejected_is_not_called_one(tmp_path: Path) -> None:
    rows = [{"group": "top_miss", "file": "a.png", "verdict": "NG", "panels": 1, "path": "good/1.png", "score": 1.0}]
    images.write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert page_of._missed(tmp_path, rows)["title"] == "Marked at another place (synthetic)"
    assert page_of._missed(tmp_path, [rows[0] | {"verdict": "OK"}])["title"] == "Worst miss (synthetic)"
    assert page_of._missed(tmp_path, [])["uri"] is None
