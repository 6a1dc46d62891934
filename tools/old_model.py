"""Fit the small model folders in tests/golden/models, by which a test sees that models made before still judge the same.

    git worktree add /tmp/old COMMIT
    PYTHONPATH=/tmp/old/src:/tmp/old/runtime/src python tools/old_model.py tests/golden/models

COMMIT is the one whose models are kept. Each learns from rendered washers of 64 x 64 pixels for a minute at most:
enough to have every part that a model folder has, and to tell two pictures apart. Beside them lie the pictures that were
judged, and `expected.json` with what each model said of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from flawforge import fitting
from flawforge.demo.washers import render_defect, render_good, write_demo_parts
from flawforge.judging import loading
from flawforge.methods import METHODS
from flawforge.types import Decision
from flawforge_runtime.images import write_image

SMALL: dict[str, dict[str, Any]] = {
    "auto": {"width": 1},
    "draem": {"reconstruct_width": 1, "segment_width": 1},
    "anoseg": {"encoder_width": 1, "decoder_width": 1, "critic_width": 1},
}
SHOWN = 900  # the washers that are judged; none is among the first 24, which are learnt from


def said(decision: Decision) -> dict[str, Any]:
    """What is compared: the map only at every eighth pixel of every eighth row."""
    surface = [float(value) for value in decision.anomaly_map[::8, ::8].flatten()]
    return {"score": decision.pred_score, "p_value": decision.p_value, "verdict": decision.verdict, "map": surface}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True)
    write_image(out / "good.png", render_good(SHOWN, size=64))
    write_image(out / "chip.png", render_defect("chip", SHOWN, size=64)[0])
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        parts = write_demo_parts(Path(folder) / "parts", good=24, test_good=1, per_kind=1, size=64)
        for name, small in SMALL.items():
            settings = dataclasses.asdict(METHODS[name].tiny) | small
            fitting.run(fitting.Request(parts, out / name, method=name, steps=100, size=64, settings=settings))
            judge = loading.load(out / name, device="cpu")
            expected[name] = {path.name: said(judge(path)) for path in sorted(out.glob("*.png"))}
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
