"""The web page without a browser: what it shows, whom it lets in, and that it holds no script, style or text of its own."""

from __future__ import annotations

import base64
import csv
import datetime
import inspect
import io
import json
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from flawforge.serve import pages, texts, views
from flawforge.serve.access import Person, Tokens, read_tokens
from flawforge.store import reviews
from flawforge.store.verdicts import Filter
from serving import Running, picture, served

SERVE = Path(inspect.getfile(pages)).parent
TEMPLATES = sorted((SERVE / "templates").iterdir())
OPERATOR, ADMIN = "o" * 24, "a" * 24
NASTY = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def line(exports: dict[str, Path], washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with six results: three good parts of two stations, two of noise, one with a nasty name. Add no more."""
    with served(exports["onnx"], tmp_path_factory.mktemp("pages") / "r.db", sample_every=0) as running:
        good = sorted((washers / "test" / "good").iterdir())
        for index, station in enumerate(("press 1", "press 1", "press 2")):
            running.send((good[index].name, good[index].read_bytes()), part_id=f"A-{index}", station=station)
        for seed in (1, 2):
            running.send((f"noise{seed}.png", picture(seed)), part_id=f"N-{seed}", station="press 2")
        running.send(("nasty.png", picture(3)), part_id=NASTY, station=NASTY)
        yield running


@pytest.fixture
def guarded(exports: dict[str, Path], tmp_path: Path) -> Iterator[Running]:
    """A service with tokens, and a model folder that may be changed."""
    (tmp_path / "tokens").write_text(f"operator anna {OPERATOR}\nadmin bert {ADMIN}\n")
    model = tmp_path / "model"
    shutil.copytree(exports["onnx"], model)
    with served(model, tmp_path / "r.db", read_tokens(tmp_path / "tokens", {})) as running:
        yield running


def get(line: Running, where: str, status: int = 200, **params: Any) -> Page:
    answer = line.http.get(where, params=params)
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"].startswith("text/html")
    return Page(answer.text)


def sign_in(line: Running, token: str) -> httpx.Response:
    line.http.cookies.clear()
    origin = {"Origin": f"http://127.0.0.1:{line.port}"}
    return line.http.post("/login", data={"token": token, "next": "/history"}, headers=origin)


# ---- every page


@pytest.mark.parametrize("where", ["/", "/history", "/review", "/models/part", "/results/1", "/results/99", "/results/none"])
def test_a_page_holds_no_script_no_style_and_no_address_of_its_own(line: Running, where: str) -> None:
    answer = line.http.get(where)
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "same-origin"  # or browsers send forms with the Origin null
    page = Page(answer.text)
    for tag, attrs in page.elements:
        assert "style" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
        assert tag != "style"
        assert tag != "script" or attrs["src"].startswith("/static/")
        for name in ("src", "href", "action", "formaction", "poster", "srcset"):
            assert attrs.get(name, "/").startswith(("/", "#", "data:image/")), (tag, attrs)
    assert dict(page.elements[0][1]) == {"lang": "en"}
    assert len(page.all("main")) == len(page.all("h1")) == 1


def test_everything_that_a_page_loads_is_there(line: Running) -> None:
    for where in ("/", "/history", "/review", "/models/part", "/results/1"):
        page = get(line, where)
        loaded = [attrs["src"] for tag in ("script", "img") for attrs in page.all(tag)]
        loaded += [attrs["href"] for tag in ("link", "image") for attrs in page.all(tag)]
        for address in loaded:
            if not address.startswith("data:"):
                answer = line.http.get(address)
                assert answer.status_code == 200, address
                assert answer.headers["x-content-type-options"] == "nosniff"


def test_names_from_outside_are_text(line: Running) -> None:
    for where in ("/", "/history", "/results/6", "/results/6/part"):
        answer = line.http.get(where)
        assert "<script>alert" not in answer.text
        assert NASTY in Page(answer.text).text


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_holds_no_words(path: Path) -> None:
    source = re.sub(r"\{%.*?%\}|\{#.*?#\}", " ", path.read_text(), flags=re.DOTALL)
    page = Page(re.sub(r"\{\{.*?\}\}", " ", source, flags=re.DOTALL))
    assert not re.search(r"[A-Za-z]{2}", page.text.replace("px", "")), page.text
    for _, attrs in page.elements:
        for name in ("alt", "title", "aria-label", "placeholder"):
            assert not re.search(r"[A-Za-z]", attrs.get(name, "")), attrs


def test_every_text_is_used() -> None:
    code = "".join(path.read_text() for path in [*TEMPLATES, *SERVE.glob("*.py"), *(SERVE / "static").glob("*.js")])
    for name, value in vars(texts).items():
        if name.isupper():
            assert len(re.findall(rf"\b{name}\b", code)) > 1, name
        if name == "SCRIPT":
            for key in value:
                assert f"texts.{key}" in code, key


def test_scripts_show_no_words_of_their_own() -> None:
    for path in (SERVE / "static").glob("*.js"):
        shown = re.findall(r"(?:textContent|innerHTML|aria-label\",) ?=? ?([\"'`][^\"'`]*[\"'`])", path.read_text())
        assert not [each for each in shown if re.search("[A-Za-z]", each)], path.name


def test_static_files_are_kept_for_ever_under_an_address_of_their_content(line: Running) -> None:
    digest, files = pages.static_files()
    assert set(files) == {path.name for path in (SERVE / "static").iterdir()}
    answer = line.http.get(f"/static/{digest}/page.css")
    assert answer.content == (SERVE / "static" / "page.css").read_bytes()
    assert "immutable" in answer.headers["cache-control"]
    for wrong in (f"/static/{digest}/texts.py", f"/static/{digest}/..%2ftexts.py", "/static/0/page.css"):
        assert line.http.get(wrong).status_code == 404


# ---- results


def test_a_result_says_what_was_judged_and_why(line: Running) -> None:
    result = line.http.get("/v1/results/4").json()
    page = get(line, "/results/4")
    assert result["verdict"] == "NG"
    for words in ("NG", "N-1", "press 2", f"{result['score']:.4g}", f"{result['threshold']:.4g}", result["model_id"]):
        assert words in page.text, words
    for note in result["notes"]:
        assert note in page.text
    good = get(line, "/results/1")
    calibration = line.service.shelf.get().inspector.calibration
    assert calibration is not None
    first = line.http.get("/v1/results/1").json()
    assert texts.chance(first["p_value"], calibration.n) in good.text.replace("\u00a0", " ")
    assert f"among {calibration.n} good pictures" in good.text


def test_a_picture_unlike_every_good_one_may_show_a_large_defect(line: Running) -> None:
    """A broken bottle is the product that the model knows, so no page says otherwise."""
    page = line.http.get("/results/4", follow_redirects=True)
    assert page.status_code == 200
    assert (
        "unlike every good picture. Possible causes: a large defect, another product, a wrong camera or light"
        in Page(page.text).text
    )


def test_the_heat_map_is_the_right_half_of_the_overlay(line: Running) -> None:
    page = get(line, "/results/4")
    inner = next(attrs for attrs in page.all("svg") if attrs.get("class") == "heat-map")
    with Image.open(io.BytesIO(line.http.get("/v1/results/4/overlay.png").content)) as overlay:
        left, top, width, height = (int(value) for value in inner["viewbox"].split())
        assert (left + width, top + height) == overlay.size
        assert width == overlay.width - left == (overlay.width - 4) // 2


@pytest.mark.parametrize("size", [(900, 700), (40, 3000), (20, 30)])
def test_the_halves_of_a_large_overlay_are_computed_as_it_is_drawn(size: tuple[int, int]) -> None:
    from types import SimpleNamespace

    from flawforge.serve.judging import LONGEST_SIDE
    from flawforge_runtime.drawing import side_by_side

    pixels, flat = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
    drawn = side_by_side(pixels, flat, flat > 0, max_side=LONGEST_SIDE)
    half = views.Detail.half.fget(SimpleNamespace(verdict=SimpleNamespace(height=size[0], width=size[1])))  # type: ignore[attr-defined]
    assert drawn.shape[:2] == (half[1], 2 * half[0] + 4)


def test_a_thumbnail_is_small(line: Running) -> None:
    answer = line.http.get("/results/1/small.jpg")
    with Image.open(io.BytesIO(answer.content)) as small:
        assert small.format == "JPEG"
        assert small.size == (64, 64)
    for pixels in (np.full((800, 200, 3), 0.5, np.float32), np.full((200, 800, 1), 9, np.uint8)):
        with Image.open(io.BytesIO(views.thumbnail(pixels))) as small:
            assert max(small.size) == views.THUMBNAIL
            assert min(small.size) == views.THUMBNAIL // 4
            assert small.mode == "RGB"


def test_what_is_not_there_is_said_on_a_page(line: Running) -> None:
    assert "There is no result 99" in get(line, "/results/99", 404).text
    assert texts.NOT_FOUND in get(line, "/results/none", 404).text
    assert "There is no model" in get(line, "/models/none", 404).text


@pytest.mark.parametrize(
    ("p_value", "n", "words"),
    [
        (1 / 61, 60, "None of the 60 good parts that set the limits scored this high."),
        (2 / 61, 60, "About 1 in 30 good parts scores this high or higher."),
        (0.5, 60, "50 % of good parts score this high or higher: an ordinary score."),
        (0.9, 60, "90 % of good parts score this high or higher: an ordinary score."),
        (0.05, 0, "About 1 in 20 good parts scores this high or higher."),
    ],
)
def test_a_p_value_in_words(p_value: float, n: int, words: str) -> None:
    assert texts.chance(p_value, n) == words


@pytest.mark.parametrize(("seconds", "words"), [(0, ""), (3600, "+01:00"), (-12600, "−03:30"), (20700, "+05:45")])
def test_an_offset_in_words(seconds: float, words: str) -> None:
    assert texts.offset(seconds) == words


def test_limits_in_words() -> None:
    assert texts.limits(2.0, None) == texts.limits(2.0, 2.0) == "NG above 2"
    assert texts.limits(2.0, 1.5) == "REVIEW above 1.5, NG above 2"


# ---- history


def found(page: Page) -> list[str]:
    """The ids of the results that a history page lists."""
    return [attrs["href"].rpartition("/")[2] for attrs in page.all("a") if attrs["href"].startswith("/results/")]


def test_the_history_filters(line: Running) -> None:
    assert found(get(line, "/history")) == ["6", "5", "4", "3", "2", "1"]
    assert found(get(line, "/history", named=" a-1 ")) == ["2"]
    assert found(get(line, "/history", station="press 1")) == ["2", "1"]
    assert found(get(line, "/history", model="none")) == []
    kinds = {word: found(get(line, "/history", verdict=word)) for word in ("OK", "REVIEW", "NG")}
    assert sorted((number for some in kinds.values() for number in some), reverse=True) == ["6", "5", "4", "3", "2", "1"]
    assert {"4", "5", "6"} <= set(kinds["NG"])
    assert found(get(line, "/history", verdict=["OK", "REVIEW", "NG"], station="press 2")) == ["5", "4", "3"]
    assert texts.FOUND_NONE in get(line, "/history", named="none").text
    assert "1 result" in get(line, "/history", named="A-1").text


def test_the_history_is_downloaded_as_it_is_filtered(line: Running) -> None:
    (address,) = [attrs["href"] for attrs in get(line, "/history", station="press 1").all("a") if ".csv" in attrs["href"]]
    answer = line.http.get(address)
    assert answer.headers["content-type"].startswith("text/csv")
    assert re.fullmatch(r'attachment; filename="results-\d{4}-\d\d-\d\d\.csv"', answer.headers["content-disposition"])
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["id"], row["station"]) for row in rows] == [("2", "press 1"), ("1", "press 1")]
    assert len(list(csv.DictReader(io.StringIO(line.http.get("/history.csv").text)))) == 6


def test_the_history_finds_what_was_said_of_a_part(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as line:
        for seed in (1, 2, 3):
            assert line.judge(picture(seed)).json()["results"][0]["verdict"] == "NG"
        for number, word in ((1, "good"), (2, "defect"), (3, "defect"), (3, "unsure")):
            assert line.http.post("/v1/reviews", json={"result": number, "verdict": word}).status_code == 201
        states = {word: found(get(line, "/history", reviewed=word)) for word in texts.REVIEW_STATES}
        assert states == {
            "": ["3", "2", "1"],
            "yes": ["3", "2", "1"],
            "no": [],
            "good": ["1"],
            "defect": ["2"],
            "unsure": ["3"],
            "against": ["1"],
        }
        assert [each["id"] for each in line.http.get("/v1/results?said=against").json()["results"]] == [1]


def test_a_review_is_changed_from_what_it_said(exports: dict[str, Path], tmp_path: Path) -> None:
    """Boxes, strokes and note are there again; and who did not see the newest review does not replace it."""
    with served(exports["onnx"], tmp_path / "r.db") as line:
        line.judge(picture(1))
        strokes = io.BytesIO()
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(strokes, "PNG")
        mask = base64.b64encode(strokes.getvalue()).decode()
        said: dict[str, Any] = {
            "result": 1,
            "verdict": "defect",
            "boxes": [{"x": 1, "y": 2, "w": 3, "h": 4}],
            "note": 'a "crack"',
        }
        first = line.http.post("/v1/reviews", json=said | {"mask": mask, "seen": 0}).json()
        ((_, form),) = [each for each in get(line, "/review", number=1).elements if each[1].get("id") == "review"]
        assert (json.loads(form["data-drawn"]), form["data-strokes"]) == (said["boxes"], mask)
        assert form["data-seen"] == str(first["id"])
        (note,) = [attrs for attrs in get(line, "/review", number=1).all("input") if attrs.get("id") == "note"]
        assert note["value"] == 'a "crack"'
        shown = get(line, "/results/1").text
        assert texts.REVIEW_PLACE[2].format(count=2) in shown
        assert 'a "crack"' in shown
        late = line.http.post("/v1/reviews", json={"result": 1, "verdict": "good", "seen": 0})
        assert late.status_code == 409
        assert "has reviewed this part as defect in the meantime" in late.json()["error"]
        assert line.http.post("/v1/reviews", json={"result": 1, "verdict": "good", "seen": first["id"]}).status_code == 201


def test_the_history_filters_by_local_time(line: Running) -> None:
    now = datetime.datetime.now()
    hour = datetime.timedelta(hours=1)
    near = {"since": f"{now - hour:%Y-%m-%dT%H:%M}", "until": f"{now + hour:%Y-%m-%dT%H:%M}"}
    assert len(found(get(line, "/history", **near))) == 6
    assert found(get(line, "/history", since=near["until"])) == []
    assert found(get(line, "/history", until=near["since"])) == []
    assert texts.FROM_BEFORE_UNTIL in get(line, "/history", since=near["until"], until=near["since"]).text
    assert len(found(get(line, "/history", since="yesterday", reviewed="maybe"))) == 6  # means nothing, so filters nothing
    fields = {attrs["name"]: attrs.get("value") for attrs in get(line, "/history", since="yesterday").all("input")}
    assert fields["since"] == ""


def test_the_history_goes_on_at_the_next_page(line: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROWS", 4)
    first = get(line, "/history", verdict=["OK", "REVIEW", "NG"])
    (older,) = [attrs["href"] for attrs in first.all("a") if "cursor=" in attrs["href"]]
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(older).query)["verdict"] == ["OK", "REVIEW", "NG"]
    second = Page(line.http.get(older).text)
    assert found(first) + found(second) == ["6", "5", "4", "3", "2", "1"]
    assert texts.NEWEST in second.text
    assert "6 results" in first.text
    assert "6 results" in second.text


def test_rates_stand_beside_the_promise(line: Running) -> None:
    text = get(line, "/history").text.replace("\u00a0", " ")
    served = line.service.shelf.get()
    assert served.inspector.calibration is not None
    assert texts.RATE_PROMISE in text
    assert texts.LINE_NOT_SAMPLED in text
    rows = line.http.get("/v1/rates", params={"step": "hour"}).json()["rates"]
    assert sum(row["count"] for row in rows) == 6
    chart = str(views.line(line.service, Filter(), served).chart)
    assert texts.RATE_SERIES[0] + ": " in chart
    assert texts.RATE_SERIES[1] + ": " not in chart  # nothing was reviewed, so no point says 0 %
    assert views._sampled({"sampled_good": 2, "sampled_alarms": 1}) == texts.LINE_SAMPLED_FEW.format(n=2, k=1, least=20)
    assert views._sampled({"sampled_good": 20, "sampled_alarms": 1}) == (
        "Of 20 good parts in the reviewed random sample, 1 were rejected: 5 % (95 % interval 0.1 % to 24.9 %)."
    )


def test_pictures_of_the_watched_folder_that_could_not_be_judged_are_listed(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    """Six broken files: the live page names the last five, the newest first, and none is taken for an OK part."""
    camera = tmp_path / "camera"
    camera.mkdir()
    with served(exports["onnx"], tmp_path / "r.db", watch=camera) as line:
        assert "was not judged" not in get(line, "/").text
        for index in range(6):
            (camera / f"{index}<b>.png").write_bytes(b"no picture")
            end = time.monotonic() + 30
            while f"{index}<b>.png" not in [each.picture for each in line.service.not_judged] and time.monotonic() < end:
                time.sleep(0.05)
        found = [words for words in get(line, "/").words if "was not judged" in words]
        assert [words.split()[2] for words in found] == [f"{index}<b>.png" for index in (5, 4, 3, 2, 1)]
        assert all("so it is not OK" in words for words in found)
        history = get(line, "/history")
        assert "6 pictures not judged" in history.text
        assert all(f"{index}<b>.png" in history.text for index in range(6))
        assert texts.MISSED_HINT in history.text
        assert "not judged" not in get(line, "/history", named="nothing").text
        (missed,) = read_events(line, 1)  # who comes back to the stream is told again
        assert [words for words in Page(missed["html"]).words if "was not judged" in words] == found


# ---- reviews


def test_the_queue_shows_the_oldest_then_the_next_and_says_what_was_saved(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db", sample_every=0) as line:
        assert texts.QUEUE_EMPTY in get(line, "/review").text
        for seed in (1, 2, 3):
            line.send((f"{seed}.png", picture(seed)))
        shown = lambda **how: get(line, "/review", **how).all("form")[-1]["data-id"]  # noqa: E731
        assert shown() == "1"
        assert shown(after=1) == "2"
        assert shown(after=3) == "1"  # those that were left for later come again
        assert shown(number=3) == "3"
        assert "3 waiting" in get(line, "/review").text
        regions = json.loads(get(line, "/review", number=3).all("form")[-1]["data-regions"])
        assert [sorted(each) for each in regions] == [["h", "w", "x", "y"]] * len(regions)
        answer = line.http.post("/v1/reviews", json={"result": 1, "verdict": "defect", "boxes": regions[:1]})
        assert answer.status_code == 201
        page = get(line, "/review", after=1, said=1)
        assert "Saved as defect: 1.png." in page.text
        assert "2 waiting" in page.text
        assert "/review?number=1" in [attrs["href"] for attrs in page.all("a")]
        assert found(get(line, "/history", reviewed="yes")) == ["1"]
        assert found(get(line, "/history", reviewed="no")) == ["3", "2"]
        assert "defect" in get(line, "/results/1").text
        assert reviews.of(line.service.store, 1)[0].who == "local"
        assert "Saved" not in get(line, "/review", said=2).text


# ---- the model


def test_the_model_page_states_promise_and_what_is_not_known(line: Running) -> None:
    page = get(line, "/models/part")
    calibration = line.service.shelf.get().inspector.calibration
    assert calibration is not None
    text = page.text.replace("\u00a0", " ")
    assert texts.percent(calibration.rate_ng.expected) in text
    assert texts.percent(calibration.rate_ng.bound) in text
    assert texts.NO_PROOF in text
    assert texts.NO_DRIFT in text
    assert texts.NO_EVALUATION in text
    assert line.service.shelf.get().manifest in text
    assert "of 6 parts rejected" in text
    redirect = line.http.get("/models")
    assert (redirect.status_code, redirect.headers["location"]) == (303, "/models/part")


def test_a_damaged_result_costs_no_page(guarded: Running) -> None:
    sign_in(guarded, OPERATOR)
    folder = guarded.service.shelf.get().folder / "drift" / "20261126-120000"
    folder.mkdir(parents=True)
    (folder / "drift.json").write_text("[]")
    page = get(guarded, "/models/part")
    assert "cannot be read" in page.text


def test_an_admin_loads_a_changed_folder_again(guarded: Running) -> None:
    folder = guarded.service.shelf.get().folder
    path = folder / "manifest.json"
    origin = {"Origin": f"http://127.0.0.1:{guarded.port}"}
    sign_in(guarded, OPERATOR)
    assert texts.CHANGED not in get(guarded, "/models/part").text
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest, indent=3))
    page = get(guarded, "/models/part")
    assert texts.CHANGED in page.text
    assert texts.RELOAD not in page.text
    assert guarded.http.post("/models/part/reload", headers=origin).status_code == 403
    sign_in(guarded, ADMIN)
    assert texts.RELOAD in get(guarded, "/models/part").text
    answer = guarded.http.post("/models/part/reload", headers=origin)
    assert (answer.status_code, answer.headers["location"]) == (303, "/models/part?reloaded=1")
    assert texts.CHANGED not in get(guarded, "/models/part", reloaded=1).text


# ---- who is let in


@pytest.mark.parametrize("where", ["/", "/history?verdict=NG", "/review", "/models/part", "/results/1", "/results/1/part"])
def test_who_is_not_known_is_sent_to_the_login(guarded: Running, where: str) -> None:
    answer = guarded.http.get(where)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?" + urllib.parse.urlencode({"next": where})
    assert texts.TOKEN in get(guarded, answer.headers["location"]).text


def test_the_stream_and_the_thumbnails_need_a_session_too(guarded: Running) -> None:
    for where in ("/events", "/results/1/small.jpg"):
        assert guarded.http.get(where).status_code == 303


def test_a_token_begins_a_session_that_logging_out_ends(guarded: Running) -> None:
    answer = sign_in(guarded, OPERATOR)
    assert (answer.status_code, answer.headers["location"]) == (303, "/history")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert OPERATOR not in cookie
    page = get(guarded, "/")
    assert "Signed in as anna, operator" in page.text
    kept = dict(guarded.http.cookies)
    answer = guarded.http.post("/logout", headers={"Origin": f"http://127.0.0.1:{guarded.port}"})
    assert answer.headers["location"] == "/login"
    guarded.http.cookies.clear()
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in kept.items())}
    assert guarded.http.get("/", headers=headers).status_code == 303


def test_an_unknown_token_is_refused_and_not_repeated(guarded: Running) -> None:
    answer = sign_in(guarded, "x" * 24)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert texts.LOGIN_WRONG in answer.text
    assert "x" * 24 not in answer.text


@pytest.mark.parametrize("where", ["https://evil.example/", "//evil.example", "/\\evil.example", "", "history", "/a\nb"])
def test_the_login_leads_nowhere_else(guarded: Running, where: str) -> None:
    page = get(guarded, "/login", next=where)
    assert next(attrs["value"] for attrs in page.all("input") if attrs["name"] == "next") == "/"
    answer = guarded.http.post("/login", data={"token": OPERATOR, "next": where})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_a_form_of_another_site_is_refused(guarded: Running, headers: dict[str, str]) -> None:
    sign_in(guarded, ADMIN)
    for where in ("/login", "/logout", "/models/part/reload"):
        assert guarded.http.post(where, headers=headers).status_code == 403
    assert get(guarded, "/").text  # still signed in


def test_without_tokens_nobody_is_asked(line: Running) -> None:
    assert line.http.get("/login").status_code == 303
    assert texts.LOG_OUT not in get(line, "/").text


# ---- the live stream


def read_events(line: Running, count: int, headers: dict[str, str] | None = None, **params: str) -> list[dict[str, Any]]:
    """The next events of the stream."""
    found: list[dict[str, Any]] = []
    with line.http.stream("GET", "/events", headers=headers, params=params) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for row in answer.iter_lines():
            if row.startswith("data: "):
                found.append(json.loads(row[6:]))
            if len(found) == count:
                break
    return found


def test_the_stream_goes_on_behind_the_result_that_was_seen_last(line: Running) -> None:
    assert [event["id"] for event in read_events(line, 3, {"Last-Event-ID": "3"})] == [4, 5, 6]
    (event,) = read_events(line, 1, last="5")
    assert (event["id"], event["verdict"], event["name"]) == (6, "NG", NASTY)
    row = Page(event["row"])
    assert row.elements[0] == ("li", {"data-id": "6"})
    assert NASTY in row.text
    assert not row.all("script")


def test_the_stream_brings_what_is_judged_and_ends_with_the_service(exports: dict[str, Path], tmp_path: Path) -> None:
    with served(exports["onnx"], tmp_path / "r.db") as line, line.http.stream("GET", "/events") as answer:
        rows = answer.iter_lines()
        assert next(rows) == "retry: 2000"
        sender = httpx.Client(base_url=line.http.base_url, timeout=60)
        sent = sender.post("/v1/inspect", files=[("files", ("part.png", picture(1)))]).json()["results"][0]
        sender.close()
        event = next(json.loads(row[6:]) for row in rows if row.startswith("data: "))
        assert (event["id"], event["name"]) == (sent["id"], "part.png")
        line.server.should_exit = True
        assert not [row for row in rows if row.startswith("data: ")]


def test_a_stream_does_not_outlive_its_session(guarded: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "HEARTBEAT", 0.05)
    sign_in(guarded, OPERATOR)
    with guarded.http.stream("GET", "/events") as answer:
        rows = answer.iter_lines()
        assert next(row for row in rows if row.startswith(":"))
        guarded.service.sessions.end(guarded.http.cookies["flawforge_session"])
        assert not [row for row in rows if row.startswith("data:")]  # it ends


def test_a_bearer_token_opens_pages_too(guarded: Running) -> None:
    answer = guarded.http.get("/history", headers={"Authorization": f"Bearer {ADMIN}"})
    assert answer.status_code == 200
    assert guarded.service.tokens.person(ADMIN) == Person("bert", "admin")
    assert Tokens().person(ADMIN) is None
