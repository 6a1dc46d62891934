"""What a notebook shows of a Decision, an Inspector and a Report: HTML that stands alone and escapes what it is given."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flawforge as ff
from flawforge.proving import intervals
from flawforge_runtime import images
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.drawing import MARKED, escaped
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.rates import highest_share
from flawforge_runtime.types import Decision, ScoreRule

HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J.png"


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def brightness(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = batch.mean(axis=1)
    return maps, maps.max(axis=(1, 2))


def inspector() -> Inspector:
    calibration = calibrate(np.linspace(0.1, 0.4, 19), 0.1, peaks=np.linspace(0.1, 0.4, 19).tolist())
    return Inspector(brightness, (32, 32), ScoreRule("max"), calibration, about={"method": "<b>brightness</b>"})


def spotted() -> np.ndarray:
    pixels = np.full((32, 32, 3), 20, np.uint8)
    pixels[8:16, 8:16] = 250
    return pixels


def shown(page: str) -> np.ndarray:
    """The picture in a page, h w 3 RGB."""
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def test_a_decision_shows_verdict_picture_and_heat_map() -> None:
    page = inspector()(spotted())._repr_html_()
    assert "NG" in Tags(page).text
    drawn = shown(page)
    assert drawn.shape == (32, 32 + 4 + 32, 3)
    assert (drawn[7, 8] == MARKED).all()  # the outline, on the picture
    assert (drawn[12, 12] == 250).all()
    assert (drawn[2, 2] == 20).all()
    assert drawn[12, 36 + 12, 0] > 200  # hot
    assert (drawn[2, 36 + 2] == 20).all()  # clear: below what good pictures reach


def test_a_path_an_array_and_a_pickle_show_the_same(tmp_path: Path) -> None:
    import pickle

    images.write_image(tmp_path / "part.png", spotted())
    by_path, by_array = inspector()(tmp_path / "part.png"), inspector()(spotted())
    assert (shown(by_path._repr_html_()) == shown(by_array._repr_html_())).all()
    assert pickle.loads(pickle.dumps(by_path))._repr_html_() == by_path._repr_html_()
    assert "part.png" in Tags(by_path._repr_html_()).text


def test_a_decision_without_a_picture_shows_its_map_alone() -> None:
    own = np.zeros((8, 8), np.float32)
    own[2, 2] = 1.0
    bare = Decision("", 1.0, 0.5, "REVIEW", False, 2.0, own, own > 0.5, (), 0.0)
    drawn = shown(bare._repr_html_())
    assert drawn.shape == (8, 20, 3)
    assert (drawn[0, 0] == 128).all()
    assert (drawn[2, 14] != 128).any()


def test_a_picture_that_is_judged_strip_by_strip_is_shown_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its map is shrunk by maxima and it is kept smaller still; both are drawn at the map's size."""
    for name, value in (("WHOLE", 100), ("SHRUNK", 64), ("SEEN", 32)):
        monkeypatch.setattr(f"flawforge_runtime.inspector.{name}", value)
    images.write_image(tmp_path / "part.png", np.kron(spotted(), np.ones((4, 4, 1), np.uint8)))
    decision = dataclasses.replace(inspector(), tile=64)(tmp_path / "part.png")
    assert decision.picture is not None
    assert (decision.anomaly_map.shape, decision.picture.shape) == ((64, 64), (32, 32, 3))
    drawn = shown(decision._repr_html_())
    assert drawn.shape == (64, 132, 3)
    assert (drawn[24, 24] == 250).all()
    assert drawn[24, 68 + 24, 0] > 200


def test_a_large_picture_is_shown_small() -> None:
    large = np.kron(spotted(), np.ones((40, 40, 1), np.uint8))
    assert shown(inspector()(large)._repr_html_()).shape == (360, 724, 3)


def test_a_hostile_file_name_is_text(tmp_path: Path) -> None:
    path = tmp_path / HOSTILE.replace("/", "_")
    images.write_image(path, spotted())
    for page in (inspector()(path)._repr_html_(), inspector()(spotted(), HOSTILE)._repr_html_()):
        tags = Tags(page)
        assert set(tags.tags) <= {"figure", "figcaption", "b", "br", "img"}
        assert "<script>alert(1)<" in tags.text
    broken = dataclasses.replace(inspector()(spotted()), image_path="part\udce4.png", notes=("<i>",))
    page = broken._repr_html_()
    page.encode()
    assert "&lt;i&gt;" in page
    assert r"part\udce4.png" in page


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_escaped_text_is_the_text(text: str) -> None:
    page = escaped(text)
    assert not set(page) & set("<>\"'")
    assert Tags(f"<p>{page}</p>").tags == ["p"]


def test_an_inspector_says_what_it_is_and_promises(tiny_model: Path) -> None:
    loaded = ff.load(tiny_model)
    page = loaded._repr_html_()
    assert set(Tags(page).tags) == {"p", "b", "br"}
    assert loaded.lines()[0] in Tags(page).text
    assert loaded.calibration is not None
    assert f"from {loaded.calibration.n} calibration pictures" in page
    assert loaded.as_dict()["calibration"]["threshold"] == loaded.calibration.threshold
    assert loaded.as_dict()["model"]["method"] == "draem"
    assert "&lt;b&gt;brightness" in inspector()._repr_html_()
    assert Inspector(brightness, (32, 32), ScoreRule("max")).lines() == ["no thresholds yet"]


@given(st.integers(1, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_the_interval_without_scipy_is_the_one_with(of: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, of))
    assert highest_share(events, of) == pytest.approx(intervals.rate(events, of).high, abs=1e-6)


def test_a_report_shows_its_page_in_a_frame(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "<img src=x onerror=alert(1)>"))
    page = ff.report(model)._repr_html_()
    assert Tags(page).tags == ["iframe"]
    (inside,) = re.findall(r'srcdoc="([^"]*)"', page)
    import html

    assert html.unescape(inside) == ff.report(model, tmp_path / "r.html").text()
    assert "img src=x" in Tags(html.unescape(inside)).text
