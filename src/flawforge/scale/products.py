"""`flawforge fit --products`: a model per product, each fitted, calibrated and proved as a task of a Ray cluster.

[defaults]              options of every product, by the names of `fitting.Request`
minutes = 5
[products.bottle]       a name for each model folder
data = "bottle/good"    relative to the file
size = 320              wins over the defaults

OUT/bottle/          the model, with its POD
OUT/bottle.log       what `fit` and `pod` said; the traceback where it failed
OUT/bottle.json      the product's row of the summary; a product with this file is finished
OUT/products.csv, index.html     the summary
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flawforge.pictures.listing import good_entries, read_listing
from flawforge.proving.specimens import COUNT
from flawforge.scale import cluster
from flawforge.types import ConfigError, FlawforgeError
from flawforge_runtime.drawing import escaped
from flawforge_runtime.feed import Say
from flawforge_runtime.files import write_atomically
from flawforge_runtime.names import cell

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
COLUMNS = ("product", "state", "promise", "pod", "minutes", "model_id", "error")
RETRIES = 1  # of a product whose worker died; it goes on from its checkpoint
GIB = 2**30

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Product:
    """One model to make.

    options  the fields of `fitting.Request` beside data and out, JSON-able
    count    forged defects per kind and contrast
    """

    name: str
    data: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = COUNT

    @property
    def identity(self) -> str:
        """Hash of all that was asked for; a finished product is skipped where it is the same."""
        facts = [str(self.data), dict(self.options), self.count]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def pictures(self) -> str:
        """Hash of the good pictures' names, sizes and times of change. Raises DataError where `data` is no data set."""
        listed = [(entry.path, entry.path.stat()) for entry in good_entries(read_listing(self.data).entries)]
        facts = sorted((str(path), found.st_size, found.st_mtime_ns) for path, found in listed)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """A product in the summary.

    state    "finished", "skipped" (an earlier run has finished it) or "failed", with the reason as `error`
    promise  the stated false-alarm rate; pod: the a90/95 of each kind and contrast, in words
    minutes  of fit and POD together
    memory   bytes that were forecast
    identity, pictures  hashes of what was asked for, and of the pictures' names, sizes and times of change
    """

    product: str
    state: str
    promise: str = ""
    pod: str = ""
    minutes: float = 0.0
    model_id: str = ""
    error: str = ""
    memory: int = 0
    identity: str = ""
    pictures: str = ""


@dataclass(frozen=True)
class Products:
    """The summary of a run: a row for each product, in the order of the file."""

    folder: Path
    rows: tuple[Row, ...]

    @property
    def failed(self) -> int:
        """How many products have no model."""
        return sum(row.state == "failed" for row in self.rows)

    def lines(self) -> list[str]:
        """For people."""
        wide = max(len(row.product) for row in self.rows)
        lines = []
        for row in self.rows:
            what = row.error if row.error else f"false alarms {row.promise}; finds {row.pod}; {row.minutes:.1f} min"
            lines.append(f"{row.product:<{wide}}  {row.state:<8}  {what}")
        made = len(self.rows) - self.failed
        return [*lines, f"{made} of {len(self.rows)} products have a model; summary: {self.folder / 'index.html'}"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "folder": str(self.folder),
            "failed": self.failed,
            "products": [dataclasses.asdict(row) for row in self.rows],
        }


def options() -> tuple[str, ...]:
    """The options of `fit` that a product may have."""
    from flawforge import fitting

    return tuple(
        each.name for each in dataclasses.fields(fitting.Request) if each.name not in ("data", "out", "devices", "nodes")
    )


def read_products(path: Path, known: Sequence[str]) -> tuple[Product, ...]:
    """The products of a TOML file. known: the options that a product may have.

    Raises ConfigError for a file that is none, a product without data, a name or option that is not allowed.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no products file {path}; give the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The products file {path} is not valid TOML ({error}); mend it.") from None
    tables, defaults = found.get("products"), found.get("defaults", {})
    if not isinstance(tables, dict) or not tables or not isinstance(defaults, dict):
        raise ConfigError(f"{path} names no product; write a table for each, such as [products.bottle] with data = FOLDER.")
    products = []
    for name, table in tables.items():
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"Product '{name}' was given in {path}; a name has letters, digits, and . _ - after the first."
            )
        if not isinstance(table, dict) or not isinstance(table.get("data"), str):
            raise ConfigError(f"Product {name} of {path} has no data; add data = FOLDER, relative to the file.")
        options = {**defaults, **table}
        data, count = options.pop("data"), options.pop("count", COUNT)
        for key in options:
            if key not in known:
                raise ConfigError(f"Product {name} of {path} has '{key}'; allowed are data, count, {', '.join(known)}.")
        for key in ("roi", "ignore", "textures", "init", "other_day"):
            if options.get(key) not in (None, "auto"):
                options[key] = str((path.parent / options[key]).absolute())
        products.append(Product(name, (path.parent / data).absolute(), options, int(count)))
    return tuple(products)


def fit_all(
    products: Sequence[Product],
    out: Path,
    *,
    address: str = cluster.LOCAL,
    say: Say = lambda sentence: None,
    progress: Progress = lambda done, of: None,
) -> Products:
    """Fit, calibrate and prove each product on the cluster. One that fails is reported, with its log, and the rest goes on.

    Each is forecast first, by the same trial steps as `fit --dry-run`, and then asks the cluster for one core and that
    memory. `out` and the data must be on a disk that all nodes share. Products that are finished are skipped.
    Raises ConfigError where there is no cluster; OSError where `out` cannot be written to.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    rows = {product.name: row for product in products if (row := _before(product, out)) is not None}
    with cluster.joined(address) as ray:
        todo = [product for product in products if product.name not in rows]
        progress(len(rows), len(products))
        for product, answer, memory in forecast_and_run(ray, todo, _fit, out):
            row = dataclasses.replace(answer, memory=answer.memory or memory)
            rows[product.name] = row
            if row.error:
                say(f"{row.product} failed: {row.error}")
            write_summary(Products(out, tuple(rows[each.name] for each in products if each.name in rows)))
            progress(len(rows), len(products))
    result = Products(out, tuple(rows[product.name] for product in products))
    write_summary(result)
    return result


def forecast_and_run(
    ray: Any, products: Sequence[Product], work: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[Product, Any, int]]:
    """Forecast each product on the cluster, then run work(product, *arguments, memory) there with one core and that memory.

    Yields (product, answer, memory) as answers come: what `work` gave, or a failed Row where the product cannot be planned,
    needs more than the largest node has, or lost its worker twice.
    """
    room = max(node.memory for node in cluster.nodes(ray))
    looked_at = ray.remote(num_cpus=1, max_retries=RETRIES)(_forecast)
    worked = ray.remote(num_cpus=1, max_retries=RETRIES)(work)
    tasks: dict[Any, tuple[Product, int]] = {looked_at.remote(each): (each, 0) for each in products}
    while tasks:
        (ready,), _ = ray.wait(list(tasks), num_returns=1)
        product, memory = tasks.pop(ready)
        try:
            answer = ray.get(ready)
        except Exception as error:  # the worker died; Ray has a class for each way
            answer = _died(product, error)
        if isinstance(answer, int) and answer <= room:
            tasks[worked.options(memory=answer).remote(product, *arguments, answer)] = (product, answer)
            continue
        if isinstance(answer, int):
            reason = f"needs {answer / GIB:.1f} GiB, and the largest node has {room / GIB:.1f}; add a node"
            answer = _failed(product, reason)
        yield product, answer, memory


def _before(product: Product, out: Path) -> Row | None:
    """The row of a product that an earlier run has finished; None = it is to be fitted."""
    file = out / f"{product.name}.json"
    if not file.is_file():
        return None
    again = f"remove {out / product.name} and {file} to fit it again"
    try:
        row = Row(**json.loads(file.read_text(encoding="utf-8")))
        changed = row.pictures and row.pictures != product.pictures()
    except (ValueError, TypeError):
        return _failed(product, f"has a file {file} that is damaged; {again}")
    except FlawforgeError as error:
        return _failed(product, str(error))
    if row.identity != product.identity:
        return _failed(product, f"was fitted with other options; {again}")
    if changed:
        return _failed(product, f"was fitted before its pictures in {product.data} were changed; {again}")
    return dataclasses.replace(row, state="skipped")


def _failed(product: Product, error: str) -> Row:
    return Row(product.name, "failed", error=error)


def _died(product: Product, error: Exception) -> Row:
    reason = type(error).__name__
    return _failed(
        product, f"its worker died ({reason}), perhaps out of memory; run the same command again to go on with it"
    )


def _request(product: Product, out: Path) -> Any:
    from flawforge import fitting

    options = dict(product.options)
    for key in ("roi", "ignore", "textures", "init", "other_day"):
        if options.get(key) is not None:
            options[key] = Path(options[key])
    return fitting.Request(data=product.data, out=out / product.name, **options)


def _forecast(product: Product) -> int | Row:
    """On a node: the bytes that its fit will need, or why it cannot be fitted."""
    from flawforge import fitting

    try:
        plan = fitting.plan(_request(product, Path("unused")))
        return fitting.forecast(plan, fitting.load_pictures(plan)).memory_bytes
    except FlawforgeError as error:
        return _failed(product, str(error))
    except Exception as error:
        return _failed(product, _reason(error))


def _fit(product: Product, out: Path, memory: int) -> Row:
    """On a node: fit (or go on with it), calibrate, prove; the row, which is then in the product's file."""
    from flawforge import api, fitting

    start = time.monotonic()
    with (out / f"{product.name}.log").open("a", encoding="utf-8", errors="backslashreplace") as log:

        def note(line: str) -> None:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            log.flush()

        try:
            request, pictures = _request(product, out), product.pictures()
            stopped = fitting.checkpoint_file(request.out).is_file()
            if stopped or not (request.out / "manifest.json").is_file():
                fitting.run(request, resume=stopped, show=note)
            proof = api.pod(request.out, product.data, count=product.count, seed=request.seed)
            for line in proof.lines():
                note(line)
        except FlawforgeError as error:
            note(f"failed: {error}")
            return _failed(product, str(error))
        except Exception as error:
            note(traceback.format_exc())
            return _failed(product, f"{_reason(error)}; its log is {log.name}")
        row = Row(
            product.name,
            "finished",
            proof.false_alarm.expected.text,
            pod_words(proof.as_dict()["curves"]),
            (time.monotonic() - start) / 60,
            str(proof.model["model_id"]),
            memory=memory,
            identity=product.identity,
            pictures=pictures,
        )
        write_atomically(out / f"{product.name}.json", json.dumps(dataclasses.asdict(row), indent=1).encode())
        return row


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")[:300]


def pod_words(curves: Sequence[Mapping[str, Any]]) -> str:
    """The sizes from which on defects are found (a90/95) over all kinds and contrasts: "defects from 5 px to 12 px"."""
    sizes = sorted(float(curve["a90_95"]) for curve in curves if curve["a90_95"] is not None)
    missed = len(curves) - len(sizes)
    if not sizes:
        return f"not shown for any of {len(curves)} kinds and contrasts"
    unit = curves[0]["unit"]
    span = f"{sizes[0]:.3g} {unit}" + (f" to {sizes[-1]:.3g} {unit}" if len(sizes) > 1 else "")
    return f"defects from {span}" + (f", not shown for {missed} of {len(curves)} kinds and contrasts" if missed else "")


def write_summary(result: Products) -> None:
    """products.csv and index.html, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for row in result.rows:
        writer.writerow(
            {
                name: cell(value) if isinstance(value, str) else f"{value:.3g}"
                for name, value in dataclasses.asdict(row).items()
            }
        )
    write_atomically(result.folder / "products.csv", text.getvalue().encode())
    head = "".join(f"<th>{name}</th>" for name in ("product", "state", "false alarms", "finds", "minutes", "reason"))
    body = ""
    for row in result.rows:
        link = escaped(row.product)
        if row.state != "failed":
            link = f'<a href="{link}/README.md">{link}</a>'
        cells = (row.state, row.promise, row.pod, f"{row.minutes:.1f}" if row.minutes else "", row.error)
        body += f'<tr class="{row.state}"><td>{link}</td>{"".join(f"<td>{escaped(value)}</td>" for value in cells)}</tr>\n'
    page = PAGE.format(made=len(result.rows) - result.failed, count=len(result.rows), head=head, body=body)
    write_atomically(result.folder / "index.html", page.encode(errors="backslashreplace"))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Products</title>
<style>body{{font:16px sans-serif;margin:2em}}td,th{{text-align:left;padding:.4em .8em;border-bottom:1px solid #ccc}}
.failed td{{background:#fdd}}</style>
<h1>{made} of {count} products have a model</h1>
<p>False alarms: the stated share of good parts that are judged NG. Finds: the size from which on at least 90 % of synthetic
defects are found, with 95 % confidence.</p>
<table><tr>{head}</tr>
{body}</table></html>
"""
