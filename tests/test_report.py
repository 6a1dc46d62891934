"""The report is one page that fetches nothing, escapes everything, names what is missing and repeats its figures."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flawforge import bundle, intervals, report, washers
from flawforge.calibrate import Calibration, calibrate
from flawforge.types import ConfigError, ModelError

HOSTILE = "<img src=x onerror=alert(1)>.png"
SIZE = 128


def make_model(
    folder: Path, *, calibrated: bool = True, evaluated: bool = True, told: bool = True, name: str = HOSTILE, size: int = SIZE
) -> Path:
    """A model folder as `fit` and `evaluate` leave it, with made-up weights and scores over rendered washers."""
    rng = np.random.default_rng(0)
    calibration = calibrate(rng.lognormal(-2.4, 0.3, 40).tolist(), 0.05, review=0.15) if calibrated else None
    config: dict[str, Any] = {
        "format": 1, "method": "draem", "profile": "cpu", "settings": {"width": 16}, "canvas": [size, size], "seed": 0,
        "flawforge_version": "0.1.0", "created": "2025-01-31T12:00:00+00:00", "score_rule": {"reduce": "max"},
    }  # fmt: skip
    if told:
        config["training"] = {"minutes": 1.5, "steps_done": 240, "pictures": 120, "held_out": 40}
        config["data_report"] = {
            "count": 160, "sizes": [{"height": size, "width": size, "count": 160}], "modes": {"8-bit RGB": 160},
            "unreadable": [{"path": f"good/{name}", "reason": "It is empty."}], "duplicate_groups": [["a.png", "b.png"]],
            "notes": ["all pictures have one size"],
        }  # fmt: skip
        config["history"] = [
            {"step": s, "seconds": s / 3, "losses": {"l2": 0.2 * math.exp(-s / 60), "ssim": 0.6 * math.exp(-s / 90), "focal": 0.1}}
            for s in range(0, 240, 4)
        ]  # fmt: skip
    bundle.write(folder, bundle.Content(config, b"weights", calibration, "# Model card\n\nWashers.\n"))
    if evaluated and calibration:
        write_evaluation(folder, calibration, rng, name, size)
    return folder


def write_evaluation(folder: Path, calibration: Calibration, rng: np.random.Generator, name: str, size: int) -> None:
    rows, overlays = [], []
    (folder / "evaluation").mkdir()
    jobs = [("good", i) for i in range(40)] + [(kind, i) for kind in washers.KINDS for i in range(10)]
    for at, (kind, index) in enumerate(jobs):
        label = int(kind != "good")
        score = float(rng.lognormal(-2.4, 0.3) if not label else rng.lognormal(-0.9 if kind != "scratch" else -1.5, 0.5))
        row = {"path": f"test/{kind}/{index:03d}.png", "kind": kind, "label": label, "score": score,
               "p_value": calibration.p_value(score), "verdict": calibration.verdict(score),
               "peak_on_defect": bool(rng.random() < 0.9) if label else None}  # fmt: skip
        rows.append(row)
        group = ("detection" if row["verdict"] == "NG" else "escape") if label else ("false_alarm" if row["verdict"] == "NG" else "good")
        if sum(o["group"] == group for o in overlays) < 4:
            file = f"{at:03d}.jpg"
            write_overlay(folder / "evaluation" / file, kind, index, size)
            overlays.append({"file": file, "group": group, "caption": f"{row['path']}: score {score:.3f}, {row['verdict']}"})
    rows[0]["path"] = rows[-1]["kind"] = overlays[0]["caption"] = name
    missed = [row["verdict"] != "NG" for row in rows if row["label"]]
    alarms = [row["verdict"] == "NG" for row in rows if not row["label"]]
    data = {
        "image": {"auroc": estimate(0.9613, 0.9171, 0.9923), "ap": estimate(0.9701, 0.94, 0.99), "f1_max": estimate(0.92, 0.87, 0.98)},
        "pixel": {"auroc": estimate(0.981, 0.97, 0.99), "aupro_0.3": estimate(0.8832, 0.84, 0.92), "iou": estimate(0.31, 0.2, 0.42),
                  "peak_on_defect": estimate(0.7, 0.53, 0.83)},
        "operating_point": {"threshold": calibration.threshold, "false_alarm_rate": intervals.rate(sum(alarms), 40)._asdict(),
                            "escape_rate": intervals.rate(sum(missed), 40)._asdict()},
        "kinds": {kind: {"image_auroc": estimate(0.9, 0.8, 1.0),
                         "escape_rate": intervals.rate(sum(m for m, r in zip(missed, rows[40:], strict=True) if r["kind"] == kind), 10)._asdict()}
                  for kind in (*washers.KINDS, name)},
        "counts": {"good": 40, "defective": 40}, "seconds": {"total": 3.0}, "pictures": rows, "overlays": overlays,
        "model": {"model_id": bundle.read(folder).model_id},
    }  # fmt: skip
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(data))


def write_overlay(path: Path, kind: str, index: int, size: int) -> None:
    if kind == "good":
        picture, mask = washers.render_good(index, 0, size), np.zeros((size, size), bool)
    else:
        picture, mask = washers.render_defect(kind, index, 0, size)
    heat = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), size / 40)
    colour = cv2.applyColorMap((255 * np.clip(heat, 0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    mixed = np.concatenate([picture[..., ::-1], cv2.addWeighted(picture[..., ::-1], 0.55, colour, 0.45, 0)], axis=1)
    path.write_bytes(cv2.imencode(".jpg", mixed)[1].tobytes())


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "washers")


@pytest.fixture(scope="module")
def page(model: Path) -> str:
    return report.write_report(model, model.parent / "report.html").read_text(encoding="utf-8")


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
        if tag not in ("meta", "img", "br", "link"):
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


def test_the_page_fetches_nothing_and_runs_nothing(page: str) -> None:
    for tag, attributes in Page(page).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
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
    assert page.count("&lt;img src=x onerror=alert(1)&gt;.png") >= 4
    assert HOSTILE in parsed.text["pictures"]
    assert HOSTILE in parsed.text["kinds"]
    assert HOSTILE in parsed.text["data"]


def test_hostile_names_do_nothing_in_markdown(model: Path) -> None:
    text = report.report_markdown(report.report_facts(model))
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text


def test_the_figures_on_the_page_are_those_of_the_evaluation(page: str, model: Path) -> None:
    data = json.loads((model / "evaluation" / "evaluation.json").read_text())
    text = Page(page).text
    for path in ("image.auroc", "image.ap", "image.f1_max", "pixel.auroc", "pixel.aupro_0.3", "pixel.iou"):
        group, key = path.split(".", 1)
        for number in data[group][key].values():
            assert f"{number:.3f}" in text[path], path
    assert "pixel.ap" not in text  # the evaluation has none, so the page claims none
    point = data["operating_point"]
    for key in ("false_alarm_rate", "escape_rate"):
        row = " ".join(text[f"operating_point.{key}"].split())
        for number in point[key].values():
            assert f"{100 * number:.1f}".removesuffix(".0") + " %" in row
            assert f"{100 * number:.1f}".removesuffix(".0") + " %" in text["answer"]
    missed = sum(row["verdict"] != "NG" for row in data["pictures"] if row["label"])
    assert f"{missed} of 40" in text["answer"]


def test_the_promise_is_stated_with_what_it_rests_on(page: str) -> None:
    answer = " ".join(Page(page).text["answer"].split())
    assert "≤ 5 %" in answer
    assert "from 40 held-back good pictures" in answer
    assert "A promise of 1 % takes 99 of them; 40 carry 2.4 % at best." in answer
    assert "A higher score is stranger" in answer


def test_every_overlay_is_embedded_as_it_lies_in_the_folder(page: str, model: Path) -> None:
    sources = [attributes["src"] for tag, attributes in Page(page).tags if tag == "img"]
    data = json.loads((model / "evaluation" / "evaluation.json").read_text())
    assert len(sources) == len(data["overlays"])
    embedded = {base64.b64decode(source.split(",", 1)[1]) for source in sources if source}
    assert embedded == {(model / "evaluation" / row["file"]).read_bytes() for row in data["overlays"]}


def test_the_json_in_the_page_is_the_json_report(page: str, model: Path, tmp_path: Path) -> None:
    [link] = [attributes["href"] for tag, attributes in Page(page).tags if tag == "a"]
    assert link is not None
    inside = json.loads(base64.b64decode(link.split(",", 1)[1]))
    assert inside == json.loads(report.write_report(model, tmp_path / "r.json").read_text())
    assert inside["evaluation"]["image"]["auroc"]["value"] == 0.9613


@pytest.mark.parametrize(
    ("pieces", "sentence", "command"),
    [
        ({"evaluated": False}, "has not been tried", "flawforge evaluate m DATA"),
        ({"calibrated": False}, "no thresholds", "flawforge calibrate m GOOD"),
        ({"told": False}, "No training losses", "flawforge fit DATA -o NEW_MODEL"),
    ],
)
def test_a_missing_piece_is_named_with_its_command(
    tmp_path: Path, pieces: dict[str, bool], sentence: str, command: str
) -> None:
    model = make_model(tmp_path / "m", **pieces)
    facts = report.report_facts(model)
    for text in (report.report_html(facts), report.report_markdown(facts)):
        assert sentence in text
        assert command in text
    assert Page(report.report_html(facts)).open == []


def test_masks_and_scores_per_picture_may_be_missing(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    file = model / "evaluation" / "evaluation.json"
    data = json.loads(file.read_text())
    del data["pictures"], data["overlays"]
    file.write_text(json.dumps(data | {"pixel": None}))
    text = report.report_html(report.report_facts(model))
    assert "had no masks" in text
    assert "kept no scores per picture" in text


def test_an_overlay_outside_the_folder_is_not_embedded(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (tmp_path / "secret.png").write_bytes(b"secret")
    file = model / "evaluation" / "evaluation.json"
    data = json.loads(file.read_text())
    data["overlays"] = [{"file": "../../secret.png", "caption": "c", "group": "good"}, {"file": "gone.png", "caption": "c", "group": "good"}]
    file.write_text(json.dumps(data))
    text = report.report_html(report.report_facts(model))
    assert base64.b64encode(b"secret").decode() not in text
    assert text.count("is missing from the evaluation folder") == 2


def test_an_evaluation_of_another_threshold_is_called_stale(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    assert "another state of this model" not in report.report_html(report.report_facts(model))
    file = model / "evaluation" / "evaluation.json"
    data = json.loads(file.read_text())
    data["operating_point"]["threshold"] *= 1.01
    file.write_text(json.dumps(data))
    assert "another state of this model" in report.report_html(report.report_facts(model))


def test_more_false_alarms_than_chance_explains_is_a_warning(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    file = model / "evaluation" / "evaluation.json"
    data = json.loads(file.read_text())
    data["operating_point"]["false_alarm_rate"] = intervals.rate(20, 40)._asdict()
    file.write_text(json.dumps(data))
    assert "Calibrate again with good pictures" in report.report_html(report.report_facts(model))
    data["operating_point"]["false_alarm_rate"] = intervals.rate(2, 40)._asdict()
    file.write_text(json.dumps(data))
    assert "Calibrate again with good pictures" not in report.report_html(report.report_facts(model))


def test_scores_that_are_not_finite_become_null_in_the_json(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    file = model / "evaluation" / "evaluation.json"
    data = json.loads(file.read_text())
    data["pictures"][3]["score"] = math.inf
    file.write_text(json.dumps(data))
    facts = report.report_facts(model)
    assert json.loads(report.report_json(facts))["evaluation"]["pictures"][3]["score"] is None
    assert not re.search(r'="(nan|inf|-inf)', report.report_html(facts))


def test_what_cannot_be_written_or_read_is_one_sentence(tmp_path: Path, model: Path) -> None:
    for out in (tmp_path / "report.docx", tmp_path / "no" / "report.html", tmp_path):
        with pytest.raises(ConfigError) as wrong:
            report.write_report(model, out)
        assert "\n" not in str(wrong.value)
    with pytest.raises(ModelError):
        report.write_report(tmp_path, tmp_path / "report.html")
    broken = make_model(tmp_path / "m")
    (broken / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(ModelError, match=r"evaluation\.json is not a JSON object"):
        report.write_report(broken, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
