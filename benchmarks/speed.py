"""From file to verdict on this machine, per backend; beside it anomalib's PaDiM ResNet-18 through OpenVINO, same pictures.

    FLAWFORGE_DATA=folder python benchmarks/speed.py MODEL [EXPORT]... [--data mvtec_bottle] [--anomalib FOLDER]

ANOMALIB_PYTHON names a Python in which anomalib and openvino are installed; without it anomalib's rows are left out. Its
weights are random (nothing is downloaded), which is all the same for speed: its own network, its own statistics on these
pictures, its own exporter and OpenVINO inferencer, from the file to the result: once with its own settings (bfloat16 where
the processor has it), once in float32, in which ours compute. Its model is fitted into FOLDER first, unless it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from flawforge.judging.speed import measure
from flawforge.pictures.listing import pictures_in
from flawforge_runtime.backends import cores
from record import record

RESULTS = Path(__file__).parent / "results" / "speed.csv"
ANOMALIB = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
root, threads, repeats, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
hint = {"float32": {"INFERENCE_PRECISION_HINT": "f32"}, "default": {}}[sys.argv[5]]
torch.set_num_threads(threads)
from anomalib.data import Folder
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim
data = Folder("speed", root=root, normal_dir="train/good", train_batch_size=8, num_workers=0, test_split_mode="none",
              val_split_mode="from_train")
path = out / "weights" / "openvino" / "model.xml"
if not path.exists():
    model = Padim(backbone="resnet18", pre_trained=False)
    engine = Engine(default_root_dir=out, accelerator="cpu", logger=False)
    engine.fit(model, datamodule=data)
    path = engine.export(model, ExportType.OPENVINO, export_root=out)
if not repeats:
    print("RESULT {}")
    sys.exit()
paths = sorted(p for p in (root / "test").rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"))
inferencer = OpenVINOInferencer(path=path, device="CPU", config={"INFERENCE_NUM_THREADS": threads, **hint})
for each in paths[:5]:
    inferencer.predict(str(each))
taken = []
for i in range(repeats):
    start = time.perf_counter()
    inferencer.predict(str(paths[i % len(paths)]))
    taken.append(time.perf_counter() - start)
p50, p95, p99 = (float(v) for v in np.percentile(taken, (50, 95, 99)) * 1000)
found = {"p50": p50, "p95": p95, "p99": p99, "mean": float(np.mean(taken)) * 1000, "pictures": len(paths)}
print("RESULT " + json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", default="mvtec_bottle")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--anomalib", type=Path, help="folder of anomalib's model; made where it is missing")
    parser.add_argument("--prepare", action="store_true", help="only make anomalib's model, and measure nothing")
    options = parser.parse_args()
    root = Path(os.environ["FLAWFORGE_DATA"]) / options.data
    paths = pictures_in(root / "test")
    python = os.environ.get("ANOMALIB_PYTHON")
    with tempfile.TemporaryDirectory() as temporary:
        out = options.anomalib or Path(temporary)
        if python:
            anomalib(python, root, options.threads, 0, out)
        if options.prepare:
            return
        measure_ours(options, paths)
        for precision in ("default", "float32") if python else ():
            facts = {
                "data": options.data,
                "who": "anomalib",
                "method": "padim resnet18, random weights",
                "cores": cores(),
                "precision": precision,
                "backend": "openvino",
                "threads": options.threads,
                "repeats": options.repeats,
            }
            record(RESULTS, facts | anomalib(str(python), root, options.threads, options.repeats, out, precision))


def measure_ours(options: argparse.Namespace, paths: list[Path]) -> None:
    """A row for every model folder."""
    for model in options.models:
        result = measure(model, paths, repeats=options.repeats, threads=options.threads).as_dict()
        stages = {f"ms {name}": value for name, value in result.pop("stages").items()}
        config = json.loads((model / "config.json").read_text())
        precision = config.get("export", {}).get("precision", "float32")
        facts = {
            "data": options.data,
            "who": "flawforge",
            "method": config["method"],
            "profile": config["profile"],
            "precision": precision,
            "canvas": str(config["canvas"]),
            "trunk": (config.get("trunk") or {}).get("backbone", ""),
            "use": config["settings"].get("use", ""),
        }
        record(RESULTS, facts | result | stages)


def anomalib(python: str, root: Path, threads: int, repeats: int, out: Path, precision: str = "default") -> dict[str, Any]:
    """Its times; `repeats` 0: only its model, in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    command = [python, "-c", ANOMALIB, str(root.resolve()), str(threads), str(repeats), str(out.resolve()), precision]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    found = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        raise SystemExit(f"anomalib gave no result:\n{done.stderr[-2000:]}")
    return dict(json.loads(found[0]))


if __name__ == "__main__":
    main()
