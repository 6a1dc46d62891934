"""Write docs/gallery: every forger on the demo's own rendered washers. Run by hand or by `make docs`; a test compares."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from flawforge.demo.washers import render_good
from flawforge.forge import FAMILIES, FORGERS, forger_from
from flawforge.pictures.saliency import background_of, saliency
from flawforge.reporting.contact_sheets import contact_sheet
from flawforge.types import Image, Sample

FOLDER = Path(__file__).resolve().parent / "gallery"
SIDE, SEED, SHOWN, QUALITY = 256, 7, 3, 55
REPORTS, METHODS = ("washer", "badge", "spotted"), ("auto", "patchstats")  # as docs/make_reports.py writes them


def sheet(name: str) -> Image:
    """Three forgeries: good, forged, close-up, mask, difference; h w 3 uint8."""
    goods = [render_good(i, SEED, SIDE) for i in range(SHOWN + 1)]
    background = background_of(goods)
    made = []
    for i in range(SHOWN):
        prior = saliency(goods[i], "foreground", background=background).map
        sample = Sample(goods[i], prior, goods[i + 1])
        made.append((goods[i], forger_from(name)(sample, np.random.default_rng([SEED, i]))))
    return contact_sheet(name, made, columns=1)


def page() -> str:
    lines = [
        "# Gallery",
        "",
        "*Written by `docs/make_gallery.py`.* Every forger on the washers that `flawforge demo` renders.",
    ]
    lines += ["Left to right: the good picture, the forgery, a close-up of it, its mask, the difference times three.", ""]
    lines += ["The seed is fixed, so the pictures change only when a forger does. On your own pictures:", ""]
    lines += ["```sh", "flawforge forge DATA -o forged", "```"]
    lines += ["", "## Reports", "", "One page each; save it and open it in a browser. None is remade by `make docs`.", ""]
    lines += ["- [The demo](report.html): promise, proof on forged defects, rendered damage, drift. The steps of"]
    lines += ["  `flawforge demo` one by one: `fit --minutes 1.5 --clock cpu`, `evaluate`, `pod`, `drift`, `report`."]
    lines += ["- Two methods on three drawn products, by `docs/make_reports.py`:"]
    lines += [f"  {name}: {', '.join(f'[{each}](reports/{name}-{each}.html)' for each in METHODS)};" for name in REPORTS]
    lines += ["  of the last two there are good pictures only, as before a plant's first defect. The renderer of these two"]
    lines += ["  also drew what `auto`'s first weights learnt from, other products of it: read its lead there with care."]
    for family, names in FAMILIES.items():
        lines += ["", f"## {family}"]
        for name in names:
            lines += ["", f"### [{name}](../forgers/{name}.md)", "", f"![{name}]({name}.jpg)"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in FORGERS:
        encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet(name), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        (FOLDER / f"{name}.jpg").write_bytes(encoded.tobytes())
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
    print(f"{FOLDER}: {len(FORGERS)} sheets")
