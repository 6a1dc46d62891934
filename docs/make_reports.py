"""Write galleries/: the reports of two methods on three rendered products. Run by `make galleries`; nothing is committed.

    OMP_NUM_THREADS=1 python docs/make_reports.py [--product washer ...] [--method auto ...] [--models FOLDER]

Our own code renders the products; they contain no photograph. The demo's washers come with rendered damage and are evaluated
on it. The two products of tools/procedural.py have good pictures only, as before the first defect in a plant. Training is
counted in steps, so that figures and pictures are the same on every run; dates and durations are not. All six reports take
ten minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flawforge import api, fitting
from flawforge.demo.washers import write_demo_parts
from flawforge.reporting.report import report
from flawforge_runtime.images import write_image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "galleries"
SIDE, GOOD, FRESH, STEPS, SEED = 160, 245, 40, 120, 0  # 49 of 245 are held back, enough for a rate of 2 %
METHODS = ("auto", "patchstats")


def drawn(number: int) -> Callable[[Path], None]:
    """A function that writes good pictures of a procedural product. The shipped weights were trained on lower numbers."""
    sys.path.insert(0, str(ROOT / "tools"))
    from procedural import product

    def write(folder: Path) -> None:
        made = product(number, SIDE)
        for name, count, stream in (("train/good", GOOD, 0), ("test/good", FRESH, 1)):
            (folder / name).mkdir(parents=True)
            for i in range(count):
                write_image(folder / name / f"{i:03d}.png", made.picture(np.random.default_rng([SEED, number, stream, i])))

    return write


def washers(folder: Path) -> None:
    write_demo_parts(folder, good=GOOD, test_good=FRESH, seed=SEED, size=SIDE)


PRODUCTS = {"washer": washers, "badge": drawn(900027), "spotted": drawn(900016)}


def make(name: str, method: str, parts: Path, models: Path) -> Path:
    """Fit, evaluate if there is rendered damage, prove, check for drift, and write the report; its path."""
    model = models / f"{name}-{method}"
    if (model / "drift").is_dir():
        return written(model)
    request = fitting.Request(parts, model, method=method, steps=STEPS, size=SIDE, seed=SEED, device="cpu")
    fitting.run(request)
    if (parts / "ground_truth").is_dir():
        api.evaluate(model, parts, seed=SEED, device="cpu")
    api.pod(model, parts, seed=SEED, device="cpu")
    api.drift(model, parts / "test" / "good", seed=SEED, device="cpu")
    return written(model)


def written(model: Path) -> Path:
    page = FOLDER / f"{model.name}.html"
    report(model, page)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--product", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    parser.add_argument(
        "--models", type=Path, help="keep the models in this folder; for models that exist there, only write the reports"
    )
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in options.product:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.models or Path(temporary)
            parts = folder / name
            if not parts.is_dir():
                PRODUCTS[name](parts)
            for method in options.method:
                page = make(name, method, parts, folder)
                print(f"{page}: {page.stat().st_size // 1024} KB", flush=True)


if __name__ == "__main__":
    main()
