"""Write docs/gallery: every forger on the rendered washers of the demo. Run it by hand; a test compares."""

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
SIDE, SEED, SHOWN, QUALITY = 256, 7, 3, 52

TOP = """# Gallery

*Written by `docs/make_gallery.py`.* Each forger on the washers that `flawforge demo` renders. From left to right: the good
picture, the synthetic defect, a close-up, its mask, and the change, stretched so that the largest is white.

The seed is fixed, so the pictures change only if a forger changes. To see the forgers on your own pictures:

```sh
flawforge forge DATA -o forged
```

## Reports

Reports are large, so they are not part of the repository. `make galleries` writes them into the folder `galleries/` in about
a quarter of an hour:

- `demo/report.html`: `flawforge demo`, with false-alarm rate, evaluation on rendered damage, POD and drift.
- `washer-auto.html`, `badge-auto.html`, `spotted-auto.html`, and the same three for `patchstats`: two methods on three
  rendered products. Badge and spotted have good pictures only, as before the first defect in a plant. The shipped weights of
  `auto` were trained on other products of the same renderer, so its lead on these two says little about real parts.
"""


def sheet(name: str) -> Image:
    """Three forgeries of one forger, one per row: good, forged, close-up, mask, difference; h w 3 uint8."""
    goods = [render_good(i, SEED, SIDE) for i in range(SHOWN + 1)]
    background = background_of(goods)
    made = []
    for i in range(SHOWN):
        prior = saliency(goods[i], "foreground", background=background).map
        sample = Sample(goods[i], prior, goods[i + 1])
        made.append((goods[i], forger_from(name)(sample, np.random.default_rng([SEED, i]))))
    return contact_sheet(name, made, columns=1)


def page() -> str:
    """The whole page as Markdown."""
    lines = TOP.splitlines()
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
