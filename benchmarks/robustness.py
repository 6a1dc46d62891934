"""How the false-alarm rate moves when good test pictures are varied: results/robustness.csv.

    FLAWFORGE_DATA=/data python benchmarks/robustness.py --models FOLDER [--out FILE]

FOLDER holds fitted models, one folder each, whose names begin with the data set's (mvtec_bottle, mvtec_bottle.tolerant, ..).
Each model judges its data set's test/good pictures as they are and under each variation of `tolerance` at its full amount,
at the thresholds it was calibrated with; `escape` is the share of defective test pictures, unvaried, that it calls OK.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from flawforge.judging import loading
from flawforge.pictures import dataset, tolerance
from flawforge.proving import intervals
from flawforge_runtime import images
from record import read, record

ONE = np.ones(2)
VARIATIONS: dict[str, dict[str, np.ndarray]] = {
    "as it is": {},
    "brightness +20 %": {"brightness": ONE},
    "brightness -20 %": {"brightness": -ONE},
    "turned by 2 degrees": {"turn": ONE},
    "moved by 4 px of 256": {"shift": np.array([1.0, 0.0])},
    "JPEG 60": {"jpeg": ONE},
    "blurred by 1 px of 256": {"blur": ONE},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "robustness.csv")
    options = parser.parse_args()
    root = Path(os.environ["FLAWFORGE_DATA"])
    for folder in sorted(path.parent for path in options.models.glob("*/config.json")):
        name = next((each.name for each in root.iterdir() if folder.name.startswith(each.name)), "")
        if not name or any(row["model"] == folder.name for row in read(options.out)[1]):
            continue
        model = loading.load(folder)
        test = [entry for entry in dataset.read_entries(root / name) if entry.split == "test"]
        pictures = {
            label: [images.read_picture(each.path).pixels for each in test if bool(each.label) == label]
            for label in (False, True)
        }
        missed = sum(model(each).verdict == "OK" for each in pictures[True])
        for title, amounts in VARIATIONS.items():
            alarms = sum(model(tolerance.varied(each, amounts)).verdict == "NG" for each in pictures[False])
            rate = intervals.rate(alarms, len(pictures[False]))
            config = model.content.config if model.content else {}
            row = {
                "model": folder.name,
                "data": name,
                "method": config["method"],
                "tolerate": config.get("tolerate", ""),
                "align": bool(config.get("align")),
                "variation": title,
                "false_alarm_rate": rate.value,
                "low": rate.low,
                "high": rate.high,
                "good": len(pictures[False]),
                "promised": model.calibration.false_alarm if model.calibration else None,
                "escape": missed / max(len(pictures[True]), 1),
                "seed": config["seed"],
            }
            record(options.out, row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
