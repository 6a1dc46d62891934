"""The web page in Chromium: what an operator does with it, at 1280 and 390 pixels, light and dark, by keyboard.

Screenshots lie in build/pages, which git ignores.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawforge.serve import texts
from flawforge.serve.access import read_tokens
from flawforge.store import reviews, verdicts
from serving import Running, picture, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.line,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; run: apt-get install chromium"),
]
api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed; run: pip install playwright")

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "build" / "pages"
AXE = "\n".join(row for row in (ROOT / "tests" / "axe.js").read_text().splitlines() if not row.startswith("//"))
LOOKS = [(1280, 800, "light"), (1280, 800, "dark"), (390, 844, "light"), (390, 844, "dark")]
DRAG = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""

RING = """() => [document.activeElement, document.activeElement.closest("label")].some(
  (element) => element && getComputedStyle(element).outlineStyle !== "none")"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def line(exports: dict[str, Path], tmp_path: Path) -> Iterator[Running]:
    """A service that has judged nothing yet."""
    with served(exports["onnx"], tmp_path / "r.db", sample_every=0) as running:
        yield running


@pytest.fixture
def good(washers: Path) -> list[Path]:
    return sorted((washers / "test" / "good").iterdir())


@contextmanager
def opened(chromium: Any, line: Running, where: str = "/", look: tuple[int, int, str] = LOOKS[0]) -> Iterator[Any]:
    """A page that asks nothing of another host, breaks no policy, and logs no error."""
    width, height, scheme = look
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    own = f"http://127.0.0.1:{line.port}/"
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith((own, "data:")) else None)
    page.goto(own + where.lstrip("/"))
    try:
        yield page
        assert not faults
    finally:
        context.close()


def shoot(page: Any, name: str) -> None:
    """A screenshot to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def send(line: Running, good: list[Path]) -> None:
    """Three good parts and two of noise, the last of them the newest."""
    for index, path in enumerate(good[:3]):
        line.send((path.name, path.read_bytes()), part_id=f"A-{index}", station=f"press {1 + index // 2}")
    for seed in (1, 2):
        line.send((f"noise{seed}.png", picture(seed)), part_id=f"N-{seed}", station="press 2")


def press(page: Any, key: str) -> None:
    """A letter in the queue, once the picture has been there long enough to be seen."""
    page.wait_for_selector("#review.ready")
    page.keyboard.press(key)


def shown(page: Any, number: int) -> None:
    """Wait until the live page shows this result."""
    page.wait_for_selector(f"#result [data-id='{number}']")


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[3]], ids=lambda look: f"{look[0]}-{look[2]}")
def test_a_dropped_picture_is_judged_shown_reviewed_and_found_again(
    chromium: Any, line: Running, good: list[Path], look: tuple[int, int, str]
) -> None:
    with opened(chromium, line, look=look) as page:
        assert texts.NOTHING_YET in page.inner_text("#result")
        page.evaluate(DRAG, ["odd part.png", list(picture(1))])
        shown(page, 1)
        assert page.inner_text("#result .word").split() == [texts.SYMBOLS["NG"], "NG"]
        assert "odd part.png" in page.inner_text("#result h2")
        page.wait_for_selector("#rows [data-id='1']")
        assert page.inner_text("#progress") == "Done: 1 judged (1 NG)"
        page.set_input_files("#files", [str(path) for path in good[:2]])
        shown(page, 3)
        page.wait_for_selector("#rows [data-id='3']")
        assert page.eval_on_selector_all("#rows li", "rows => rows.map(row => row.dataset.id)") == ["3", "2", "1"]
        page.click("#rows [data-id='1'] a")
        shown(page, 1)
        page.click(f"#result >> text={texts.REVIEW_THIS}")
        page.wait_for_selector("#review[data-id='1']")
        press(page, "d")
        page.wait_for_url("**/review?after=1&said=1")
        assert "Saved as defect: odd part.png." in page.inner_text("main")
        (review,) = reviews.of(line.service.store, 1)
        assert (review.verdict, review.boxes, review.mask) == ("defect", (), None)
        page.click(f"nav >> text={texts.HISTORY}")
        page.check("input[value=NG]")
        page.fill("input[name=named]", "ODD p")
        page.fill("input[name=named]", "")
        page.click(f"text={texts.APPLY}")
        page.wait_for_url("**verdict=NG**")
        listed = page.eval_on_selector_all(".history tbody a", "links => links.map(link => link.href.split('/').pop())")
        wanted = verdicts.listed(line.service.store, verdicts.Filter(verdicts=("NG",))).verdicts
        assert listed == [str(verdict.id) for verdict in wanted]
        assert "1" in listed
        assert "defect" in page.inner_text(".history tbody tr:last-child")


def test_the_slider_blends_picture_and_heat_map(chromium: Any, line: Running) -> None:
    line.send(("part.png", picture(1)))
    with opened(chromium, line, "/results/1") as page:
        strength = "getComputedStyle(document.querySelector('.heat-map')).opacity"
        assert float(page.evaluate(strength)) == pytest.approx(0.6)
        page.focus("input.heat")
        for key, opacity in (("End", 1.0), ("Home", 0.0), ("ArrowRight", 0.05)):
            page.keyboard.press(key)
            assert float(page.evaluate(strength)) == pytest.approx(opacity)
        page.keyboard.press("End")
        marked = page.locator(".regions rect:not(.halo)")
        assert marked.count() == len(line.http.get("/v1/results/1").json()["regions"])


def test_the_line_is_followed_live_and_lost_connections_are_said(chromium: Any, line: Running, good: list[Path]) -> None:
    with opened(chromium, line) as page:
        page.wait_for_selector("#state.on")
        line.send(("first.png", picture(1)))
        shown(page, 1)
        assert page.inner_text("#announce") == "NG: first.png"
        page.select_option("#follow", "none")
        line.send((good[0].name, good[0].read_bytes()))
        page.wait_for_selector("#rows [data-id='2']")
        assert page.locator("#result [data-id='1']").count() == 1
        page.select_option("#follow", "rejects")
        line.send(("third.png", picture(3)))
        shown(page, 3)
    with opened(chromium, line) as page:
        page.wait_for_selector("#state.on")
        page.context.route("**/events*", lambda route: route.abort())
        line.service.live.close()  # every stream ends
        page.wait_for_selector("#state.off")
        assert "new parts are not shown" in page.inner_text("#lost")
        assert "stale" in (page.get_attribute("#result", "class") or "")
        line.service.live.closed = False
        line.send(("fourth.png", picture(4)))  # nobody hears of it
        page.context.unroute("**/events*")
        page.reload()
        page.wait_for_selector("#state.on")
        assert page.locator("#rows [data-id='4']").count() == 1
        assert not page.is_visible("#lost")


def test_a_dropped_part_stays_until_somebody_goes_back_to_the_line(chromium: Any, line: Running, good: list[Path]) -> None:
    with opened(chromium, line) as page:
        page.wait_for_selector("#state.on")
        page.click(f"text={texts.PART_AND_STATION}")
        page.fill("[name=part_id]", "P-1")
        page.set_input_files("#files", [str(good[0])])
        shown(page, 1)
        assert page.input_value("[name=part_id]") == ""  # the next picture is of another part
        assert not page.is_visible("#held")
        for seed in (1, 2):
            line.send((f"line{seed}.png", picture(seed)))
        page.wait_for_selector("#rows [data-id='3']")
        page.wait_for_selector("#held", state="visible")
        assert "Newer parts: 2, NG: 2." in page.inner_text("#held")
        assert "P-1" in page.inner_text("#result h2")
        shoot(page, "live-held")
        page.click("#back")
        shown(page, 3)
        assert not page.is_visible("#held")
        line.send(("line4.png", picture(4)))
        shown(page, 4)
        page.focus("#result input.heat")  # who works in the panel keeps it
        line.send(("line5.png", picture(5)))
        page.wait_for_selector("#held", state="visible")
        assert page.evaluate("document.activeElement.className") == "heat"
        assert page.locator("#result [data-id='4']").count() == 1


def test_a_review_is_changed_and_a_colleagues_is_not_replaced_unseen(chromium: Any, line: Running) -> None:
    for seed in (1, 2):
        line.send((f"{seed}.png", picture(seed)))
    store, box = line.service.store, reviews.Box(10, 20, 30, 24)
    reviews.add(store, 1, "anna", "defect", boxes=[box], note="a groove")
    context = chromium.new_context()  # the console tells of a 409 as of an error
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{line.port}/review?number=1")
    assert page.locator("#drawing rect").count() == 1
    assert page.input_value("#note") == "a groove"
    reviews.add(store, 1, "bert", "unsure")
    press(page, "d")
    page.wait_for_selector("#saved:has-text('bert has reviewed')")
    assert [each.who for each in reviews.of(store, 1)] == ["bert", "anna"]
    press(page, "d")
    page.wait_for_url("**said=1")
    newest = reviews.of(store, 1)[0]
    assert (newest.verdict, newest.boxes, newest.note) == ("defect", (box,), "a groove")
    page.keyboard.press("z")  # nothing is drawn: back to the review that was just saved
    page.wait_for_url("**/review?number=1")
    context.close()


def test_what_is_no_picture_is_said_not_to_be_ok(chromium: Any, line: Running, good: list[Path]) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{line.port}/")
    page.set_input_files("#files", {"name": "<b>notes</b>.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#errors li")
    said = page.inner_text("#errors li")
    assert said.startswith("<b>notes</b>.png was not judged, so it is not OK: ")
    assert page.inner_text("#progress") == "1 not judged"
    assert page.inner_text("#result .word").split() == ["!", "NOT", "JUDGED"]
    assert "<b>notes</b>.png" in page.inner_text("#result h2")
    assert verdicts.count(line.service.store) == 0
    context.close()


def test_the_live_page_names_a_broken_file_of_the_watched_folder(
    chromium: Any, exports: dict[str, Path], tmp_path: Path
) -> None:
    """Without a reload; and a page that lost the line in the meantime is told when it is back."""
    camera = tmp_path / "camera"
    camera.mkdir()
    with served(exports["onnx"], tmp_path / "r.db", watch=camera) as line:
        context = chromium.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{line.port}/")
        page.wait_for_selector("#state.on")
        (camera / "<b>cut.png").write_bytes(b"no picture")
        page.wait_for_selector("#missed li")
        assert page.inner_text("#missed li").startswith("Watched folder: <b>cut.png was not judged, so it is not OK (")
        context.close()


def test_a_busy_service_is_asked_again_with_the_same_key(chromium: Any, line: Running) -> None:
    keys: list[str] = []

    def refuse_twice(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) < 3:
            route.fulfill(status=503, headers={"Retry-After": "0"}, json={"error": "full", "request_id": "1"})
        else:
            route.continue_()

    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.route("**/v1/inspect", refuse_twice)
    page.goto(f"http://127.0.0.1:{line.port}/")
    page.set_input_files("#files", {"name": "part.png", "mimeType": "image/png", "buffer": picture(1)})
    shown(page, 1)
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert re.fullmatch("[0-9a-f]{32}", keys[0])
    context.close()


def test_a_box_is_drawn_by_mouse_and_by_keyboard(chromium: Any, line: Running) -> None:
    for seed in (1, 2):
        line.send((f"{seed}.png", picture(seed)))
    with opened(chromium, line, "/review") as page:
        frame = page.locator(".stage image").first.bounding_box()
        scale = frame["width"] / 64
        place = lambda x, y: (frame["x"] + x * scale, frame["y"] + y * scale)  # noqa: E731
        page.mouse.move(*place(10, 20))
        page.mouse.down()
        page.mouse.move(*place(20, 30))
        page.mouse.move(*place(40, 44))
        page.mouse.up()
        press(page, "g")
        assert texts.SCRIPT["good_with_place"] in page.inner_text("#saved")
        page.keyboard.press("d")
        page.wait_for_url("**/review?after=1&said=1")
        (review,) = reviews.of(line.service.store, 1)
        (box,) = review.boxes
        assert np.allclose([box.x, box.y, box.w, box.h], [10, 20, 30, 24], atol=1)
        page.keyboard.press("a")  # a box of a fifth in the middle: x 26, y 26, 13 x 13
        for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown"):
            page.keyboard.press(key)
        shoot(page, "review-box")
        press(page, "d")
        page.wait_for_url("**/review?after=2&said=2")
        (review,) = reviews.of(line.service.store, 2)
        assert review.boxes == (reviews.Box(24, 25, 14, 15),)
        assert texts.QUEUE_EMPTY in page.inner_text("main")


def test_a_key_that_comes_before_the_picture_was_seen_reviews_nothing(chromium: Any, line: Running) -> None:
    line.send(("1.png", picture(1)))
    with opened(chromium, line, "/review") as page:
        page.evaluate("document.getElementById('review').classList.remove('ready')")  # as in the first 0.7 s
        page.keyboard.press("d")
        page.wait_for_timeout(300)
        assert page.url.endswith("/review")
        assert reviews.of(line.service.store, 1) == ()


def test_a_finger_scrolls_until_a_tool_is_chosen(chromium: Any, line: Running) -> None:
    line.send(("1.png", picture(1)))
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{line.port}/review")
    page.wait_for_selector("#review.ready")
    assert page.evaluate("getComputedStyle(document.querySelector('.stage')).touchAction") == "auto"
    drag = """() => { const stage = document.querySelector(".stage"), box = stage.getBoundingClientRect();
      for (const [kind, x] of [["pointerdown", 40], ["pointermove", 90], ["pointerup", 90]])
        stage.dispatchEvent(new PointerEvent(kind, {
          pointerId: 1, button: 0, clientX: box.x + x, clientY: box.y + x, bubbles: true })); }"""
    page.evaluate("Element.prototype.setPointerCapture = () => {}")  # there is no real pointer behind these events
    page.evaluate(drag)
    assert page.locator("#drawing rect").count() == 0
    page.check("[name=tool][value=box]")
    assert page.evaluate("getComputedStyle(document.querySelector('.stage')).touchAction") == "none"
    page.evaluate(drag)
    assert page.locator("#drawing rect").count() == 1
    context.close()


def test_a_brush_stroke_becomes_a_mask_of_the_pictures_own_size(chromium: Any, line: Running) -> None:
    line.send(("1.png", picture(1)))
    with opened(chromium, line, "/review", LOOKS[2]) as page:
        page.keyboard.press("p")
        frame = page.locator(".stage image").first.bounding_box()
        scale = frame["width"] / 64
        page.mouse.move(frame["x"] + 10 * scale, frame["y"] + 32 * scale)
        page.mouse.down()
        page.mouse.move(frame["x"] + 50 * scale, frame["y"] + 32 * scale)
        page.mouse.up()
        page.keyboard.press("b")
        page.keyboard.press("a")
        page.keyboard.press("Delete")
        page.fill("#note", "a groove")
        shoot(page, "review-brush-390")
        page.click("[data-answer=defect]")
        page.wait_for_url("**/review?after=1&said=1")
    (review,) = reviews.of(line.service.store, 1)
    assert (review.note, review.boxes) == ("a groove", ())
    marked = review.marked((64, 64))
    assert marked is not None
    assert marked[32, 12:49].all()
    assert not marked[:28].any()
    assert not marked[37:].any()
    assert 100 < marked.sum() < 250


def test_the_marked_regions_are_taken_and_undone(chromium: Any, line: Running) -> None:
    line.send(("1.png", picture(1)))
    regions = line.http.get("/v1/results/1").json()["regions"]
    with opened(chromium, line, "/review") as page:
        page.keyboard.press("r")
        assert page.locator("#drawing rect").count() == len(regions)
        page.keyboard.press("r")
        assert page.locator("#drawing rect").count() == len(regions)
        for left in range(len(regions) - 1, -1, -1):
            page.keyboard.press("z")
            assert page.locator("#drawing rect").count() == left
        page.fill("#note", "good is good")  # letters in a field are text
        assert page.url.endswith("/review")
        page.keyboard.press("Tab")
        press(page, "u")
        page.wait_for_url("**said=1")
    assert reviews.of(line.service.store, 1)[0].verdict == "unsure"


def test_login_by_keyboard_and_a_session_that_ends(chromium: Any, exports: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"operator anna {'o' * 24}\n")
    with served(exports["onnx"], tmp_path / "r.db", read_tokens(tmp_path / "tokens", {})) as line:
        context = chromium.new_context(viewport={"width": 390, "height": 844})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{line.port}/history?verdict=NG")
        assert page.evaluate(AXE) == []
        page.fill("input[name=token]", "wrong" * 5)
        page.keyboard.press("Enter")
        page.wait_for_selector("#wrong")
        shoot(page, "login-390")
        assert page.evaluate(AXE) == []
        page.fill("input[name=token]", "o" * 24)
        page.keyboard.press("Enter")
        page.wait_for_url("**/history?verdict=NG")
        (cookie,) = context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert page.evaluate("document.cookie") == ""
        page.click(f"nav >> text={texts.LIVE}")
        page.set_input_files("#files", {"name": "part.png", "mimeType": "image/png", "buffer": picture(1)})
        shown(page, 1)
        page.click(f"text={texts.LOG_OUT}")
        page.wait_for_url("**/login")
        page.goto(f"http://127.0.0.1:{line.port}/history")
        page.wait_for_url("**/login?next=*")
        context.close()


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look[0]}-{look[2]}")
def test_names_roles_targets_and_contrast(
    chromium: Any, line: Running, good: list[Path], look: tuple[int, int, str]
) -> None:
    send(line, good)
    line.http.post("/v1/reviews", json={"result": 4, "verdict": "defect"})
    pages = {"live": "/", "history": "/history?station=press+2", "review": "/review?said=4", "model": "/models/part"}
    pages["result"] = "/results/4"
    with opened(chromium, line, look=look) as page:
        for name, where in pages.items():
            page.goto(f"http://127.0.0.1:{line.port}{where}")
            page.eval_on_selector_all("details", "each => each.forEach(details => { details.open = true; })")
            page.wait_for_timeout(300)
            shoot(page, f"{name}-{look[0]}-{look[2]}")
            assert page.evaluate(AXE) == [], name


def test_the_checks_find_what_is_wrong(chromium: Any) -> None:
    page = chromium.new_page()
    page.set_content(
        "<style>p { color: #999; background: #fff }</style><h3>late</h3><img src='data:,'><button></button><p>pale</p>"
        "<input id='a'><i id='a'></i><ul><p>x</p></ul><div role='buton'>x</div><table><tr><th>x</th></tr></table>"
    )
    faults = " ".join(page.evaluate(AXE))
    for words in ("no name", "no alt", "id twice", "odd role", "no scope", "no list item", "no language", "no title"):
        assert words in faults, words
    assert "heading after level 0" in faults
    assert "not one main" in faults
    assert "contrast 2.85" in faults  # #999 on white, after WCAG's formula
    page.close()


def test_the_keyboard_reaches_everything_in_order(chromium: Any, line: Running, good: list[Path]) -> None:
    send(line, good)
    with opened(chromium, line) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
            assert page.evaluate(RING), reached
        assert reached[0] == "files"
