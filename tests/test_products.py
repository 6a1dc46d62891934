"""Products files, their summary, and the tasks themselves without a cluster; test_scale_cluster.py has them on one."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import pytest

from flawforge.scale import products
from flawforge.scale.products import Product, Products, Row, pod_words, read_products, write_summary
from flawforge.types import ConfigError

KNOWN = ("method", "minutes", "size", "roi", "steps", "settings")


def _file(folder: Path, text: str) -> Path:
    path = folder / "products.toml"
    path.write_text(text)
    return path


def test_a_products_own_options_win_over_the_defaults(tmp_path: Path) -> None:
    text = '[defaults]\nminutes = 2\nsize = 128\ncount = 8\n[products.a]\ndata = "a"\n'
    path = _file(tmp_path, text + '[products.b]\ndata = "/d/b"\nsize = 64\nroi = "m.png"\n')
    a, b = read_products(path, KNOWN)
    assert (a.name, a.data, a.options, a.count) == ("a", tmp_path / "a", {"minutes": 2, "size": 128}, 8)
    assert (b.data, b.options) == (Path("/d/b"), {"minutes": 2, "size": 64, "roi": str(tmp_path / "m.png")})
    assert a.identity != b.identity
    assert a.identity != dataclasses.replace(a, count=9).identity


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no product"),
        ("[products", "is not valid TOML"),
        ("[products.a]\nsize = 3", "Product a of .* has no data"),
        ('[products."a/b"]\ndata = "x"', "Product 'a/b' was given"),
        ('[products.a]\ndata = "x"\ncolour = 3', "has 'colour'; allowed are data, count, method"),
        ('[products.a]\ndata = "x"\nout = "y"', "has 'out'"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_products(_file(tmp_path, text), KNOWN)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no products file"):
        read_products(tmp_path / "none.toml", KNOWN)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([5.12, 12.0], "defects from 5.12 px to 12 px"),
        ([5.12, None, 4.0], "defects from 4 px to 5.12 px, not shown for 1 of 3 kinds and contrasts"),
        ([None, None], "not shown for any of 2 kinds and contrasts"),
        ([7.0], "defects from 7 px"),
    ],
)
def test_the_pod_in_words(sizes: list[float | None], words: str) -> None:
    assert pod_words([{"a90_95": size, "unit": "px"} for size in sizes]) == words


def test_the_summary_holds_every_product_and_no_raw_name(tmp_path: Path) -> None:
    rows = (
        Row("a", "finished", "1 %", "defects from 4 px", 2.5, "abc"),
        Row("b", "failed", error="=cmd() <script> went wrong"),
    )
    result = Products(tmp_path, rows)
    write_summary(result)
    with (tmp_path / "products.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["product"] for row in found] == ["a", "b"]
    assert found[0]["minutes"] == "2.5"
    assert found[1]["error"].startswith("'=cmd()")
    page = (tmp_path / "index.html").read_text()
    assert "1 of 2 products have a model" in page
    assert "<script>" not in page
    assert result.failed == 1
    assert result.lines()[-1].startswith("1 of 2 products have a model")
    assert result.as_dict()["products"][1]["state"] == "failed"


def test_a_task_fits_calibrates_proves_and_is_then_skipped(washers: Path, tmp_path: Path) -> None:
    product = Product("washer", washers, {"method": "patchstats", "size": 64}, 4)
    memory = products._forecast(product)
    assert isinstance(memory, int)
    assert memory > 10**7
    row = products._fit(product, tmp_path, memory)
    assert (row.state, row.error) == ("finished", "")
    assert row.model_id == json.loads((tmp_path / "washer" / "manifest.json").read_text())["model_id"]
    assert list((tmp_path / "washer" / "proof").iterdir())
    assert "calibrating on" in (tmp_path / "washer.log").read_text()
    before = products._before(product, tmp_path)
    assert before == dataclasses.replace(row, state="skipped")
    other = products._before(dataclasses.replace(product, count=8), tmp_path)
    assert other is not None
    assert other.state == "failed"
    assert "was fitted with other options; remove" in other.error


@pytest.mark.parametrize("change", ["other bytes", "one more", "one less", "renamed"])
def test_a_product_whose_pictures_have_changed_is_not_skipped(tmp_path: Path, change: str) -> None:
    """A night's run would else go on with the model of the pictures of before."""
    data = tmp_path / "good"
    data.mkdir()
    for number in range(3):
        (data / f"{number}.png").write_bytes(b"picture")
    product = Product("part", data)
    row = Row("part", "finished", identity=product.identity, pictures=product.pictures())
    (tmp_path / "part.json").write_text(json.dumps(dataclasses.asdict(row)))
    assert products._before(product, tmp_path) == dataclasses.replace(row, state="skipped")
    if change == "other bytes":
        (data / "1.png").write_bytes(b"changed")
        os.utime(data / "1.png", (1, 1))
    elif change == "one more":
        (data / "3.png").write_bytes(b"picture")
    elif change == "one less":
        (data / "2.png").unlink()
    else:
        (data / "2.png").rename(data / "4.png")
    found = products._before(product, tmp_path)
    assert found is not None
    assert found.state == "failed"
    assert "was fitted before its pictures in" in found.error


def test_a_finished_product_whose_data_is_gone_says_so(tmp_path: Path) -> None:
    product = Product("part", tmp_path / "gone")
    row = Row("part", "finished", identity=product.identity, pictures="0" * 64)
    (tmp_path / "part.json").write_text(json.dumps(dataclasses.asdict(row)))
    found = products._before(product, tmp_path)
    assert found is not None
    assert (found.state, "gone does not exist" in found.error) == ("failed", True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"product": "part", "stat": "finished"}'])
def test_a_damaged_row_of_a_product_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "part.json").write_text(text)
    found = products._before(Product("part", tmp_path), tmp_path)
    assert found is not None
    assert "part.json that is damaged; remove" in found.error


def test_a_task_that_fails_says_why_and_keeps_its_log(tmp_path: Path) -> None:
    product = Product("none", tmp_path / "nowhere")
    forecast = products._forecast(product)
    assert isinstance(forecast, Row)
    row = products._fit(product, tmp_path, 0)
    assert row.state == forecast.state == "failed"
    assert "nowhere" in row.error
    assert "failed: " in (tmp_path / "none.log").read_text()
    assert products._before(product, tmp_path) is None
