"""Draw the ten worst misses and the ten worst false alarms of models, to be looked at; nothing is recorded.

    FLAWFORGE_DATA=/data python benchmarks/worst.py --models FOLDER --out FOLDER

FOLDER holds fitted models whose names begin with the data set's. Above the defective test pictures with the lowest scores,
the defect outlined in green; below the good ones with the highest. Under each its heat map and its score less the threshold.
The sheets show the data set's pictures, so they are never committed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from flawforge.judging import loading
from flawforge.pictures import dataset
from flawforge_runtime import images

SIDE, MANY = 200, 10


def tile(pixels: np.ndarray, surface: np.ndarray, mask: np.ndarray, text: str, scale: tuple[float, float]) -> np.ndarray:
    """One picture above its heat map."""
    h, w = pixels.shape[:2]
    shown = pixels.copy()
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, (0, 255, 0), max(1, max(h, w) // 200))
    heat = np.uint8(255 * np.clip((surface - scale[0]) / (scale[1] - scale[0]), 0, 1))
    heat = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    mixed = cv2.addWeighted(shown, 0.35, heat, 0.65, 0)
    factor = SIDE / max(h, w)
    size = (max(1, int(w * factor)), max(1, int(h * factor)))
    cell = np.full((2 * SIDE + 24, SIDE, 3), 255, np.uint8)
    for place, each in enumerate((shown, mixed)):
        small = cv2.resize(each, size, interpolation=cv2.INTER_AREA)
        cell[place * SIDE : place * SIDE + size[1], : size[0]] = small
    cv2.putText(cell, text, (2, 2 * SIDE + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ["FLAWFORGE_DATA"])
    for folder in sorted(path.parent for path in options.models.glob("*/config.json")):
        name = next((each.name for each in root.iterdir() if folder.name.startswith(each.name)), "")
        if not name:
            continue
        model, rows = loading.load(folder), []
        for entry in (each for each in dataset.read_entries(root / name) if each.split == "test"):
            decision = model(entry.path)
            rows.append((decision.pred_score - decision.threshold, bool(entry.label), entry, decision))
        goods = np.concatenate([row[3].anomaly_map[::4, ::4].ravel() for row in rows if not row[1]])
        scale = float(np.median(goods)), float(np.quantile(goods, 0.9995))
        misses = sorted((row for row in rows if row[1]), key=lambda row: row[0])[:MANY]
        alarms = sorted((row for row in rows if not row[1]), key=lambda row: -row[0])[:MANY]
        lines = []
        for chosen in (misses, alarms):
            cells = []
            for margin, _, entry, decision in chosen:
                pixels = images.read_picture(entry.path).pixels
                pixels = pixels if pixels.dtype == np.uint8 else np.uint8(pixels * 255)
                size = pixels.shape[:2]
                mask = images.read_mask(entry.mask_path, size=size) if entry.mask_path else np.zeros(size, bool)
                text = f"{margin:+.3g} {entry.path.parent.name[:8]}/{entry.path.stem[-10:]}"
                cells.append(tile(np.ascontiguousarray(pixels), decision.anomaly_map, mask, text, scale))
            lines.append(np.hstack(cells))
        width = max(line.shape[1] for line in lines)
        padded = [np.pad(line, ((0, 8), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
        sheet = np.vstack(padded)
        images.write_image(options.out / f"{folder.name}.png", sheet)
        print(options.out / f"{folder.name}.png", flush=True)


if __name__ == "__main__":
    main()
