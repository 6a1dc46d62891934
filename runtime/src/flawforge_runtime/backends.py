"""Exported networks as callables on numpy arrays: ONNX Runtime and OpenVINO, each an extra; `load` opens an export.

Both compute in float32, as the parity report was made. OpenVINO would compute in bfloat16 on processors that have it; it is
told not to, unless precision "bfloat16" is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from flawforge_runtime import bundle
from flawforge_runtime.forks import PerProcess
from flawforge_runtime.inspector import Inspector, Network, from_content
from flawforge_runtime.origin import origin_of
from flawforge_runtime.types import ConfigError, ModelError

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}  # what a backend needs from an index
OUTPUTS = ("map", "score", "score_map")  # of an exported graph, in a Network's order; the last only where it has one


def load(
    folder: str | Path, *, backend: str | None = None, threads: int | None = None, precision: str = "float32"
) -> Inspector:
    """Open an export folder, verify its hashes, and give the Inspector, without torch.

    backend    "onnx" or "openvino"; None = the one that the folder was exported for
    threads    of the network, from 1 to the cores of this machine; None = all of them
    precision  "float32", or "bfloat16" (OpenVINO; verdicts may then differ from those that the export was proved with)
    Threads may share the Inspector. It can be pickled: what is sent is the folder's path and the thresholds, and the
    process that it comes to opens the folder and raises ModelError where that holds another model now. A forked process
    may use its parent's: the network is made anew there at the first picture.
    Raises ModelError for a folder that is no whole model, ConfigError for an option or a backend that is not there.
    """
    content = bundle.read(Path(folder))
    if content.backend == "torch":
        raise ModelError(
            f"The model folder {folder} holds torch weights, which the runtime does not read; "
            f"run `flawforge export {folder} -o OUT --to onnx` where flawforge is installed, and give OUT."
        )
    how: dict[str, Any] = {"backend": backend, "threads": threads, "precision": precision}
    inspector = from_content(content, network(content, folder, **how))
    origin = origin_of(load, folder, content, inspector.network, inspector.about["model_id"], **how)
    return replace(inspector, origin=origin)


def network(
    content: bundle.Content, folder: str | Path, *, backend: str | None, threads: int | None, precision: str = "float32"
) -> Network:
    """The exported network in `content`; `folder` is named in errors. Options and errors as in `load`."""
    if backend is not None and backend != content.backend:
        raise ConfigError(
            f"Backend {backend} was asked for, but {folder} was exported to {content.backend}; leave the option out, or run "
            f"`flawforge export MODEL -o OUT --to {backend}` and give OUT."
        )
    if precision not in ("float32", "bfloat16") or (precision == "bfloat16" and content.backend != "openvino"):
        raise ConfigError(
            f"Precision {precision} was asked for with {content.backend}; give float32, or bfloat16 with OpenVINO."
        )
    threads = threads_allowed(threads)
    package = need(content.backend)
    try:
        if content.backend == "onnx":
            return PerProcess(lambda: onnx_network(package, content.exported["model.onnx"], threads))
        return PerProcess(lambda: openvino_network(package, content.exported, threads, precision))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        package = PACKAGES[content.backend]
        raise ModelError(f"{package} cannot open {folder} ({reason}); update it, or export again.") from error


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_allowed(threads: int | None) -> int:
    """`threads`, or all cores for None. Raises ConfigError below 1 and above the cores: more would only wait."""
    if threads is None:
        return cores()
    if not 1 <= threads <= cores():
        raise ConfigError(f"{threads} threads were asked for; allowed here are 1 to {cores()}, the cores of this machine.")
    return threads


def need(backend: str) -> Any:
    """The backend's package. Raises ConfigError with the pip command where it is not installed."""
    # ONNX Runtime would report its use to its maker, from a thread that a forked process then waits for at its end.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module(PACKAGES[backend])
    except ImportError:
        raise ConfigError(f"Backend {backend} is not installed here; run `pip install {PACKAGES[backend]}`.") from None


def onnx_network(onnxruntime: Any, model: bytes, threads: int) -> Network:
    """A graph in ONNX Runtime on the CPU: n 3 h w float32 -> (map n h w, score n [, score map n h w])."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = _in_order({each.name for each in session.get_outputs()})

    def run(batch: Any) -> tuple[Any, ...]:
        return tuple(session.run(names, {"images": np.ascontiguousarray(batch)}))

    return run


def openvino_network(openvino: Any, files: Mapping[str, bytes], threads: int, precision: str) -> Network:
    """A graph in OpenVINO on the CPU, as `onnx_network`."""
    core = openvino.Core()
    model = core.read_model(files["model.xml"], files["model.bin"])
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    names = _in_order({name for each in model.outputs for name in each.names})

    def compiled(one: bool) -> Any:
        """A request for one picture at a time, or for any number: shapes that are known beforehand cost a sixth less."""
        model.reshape({"images": [1 if one else -1, *list(model.input("images").partial_shape)[1:]]})
        return core.compile_model(model, "CPU", settings).create_infer_request()

    requests = {True: compiled(True)}

    def run(batch: Any) -> tuple[Any, ...]:
        one = len(batch) == 1
        if one not in requests:
            requests[one] = compiled(one)
        request = requests[one]
        request.infer({"images": np.ascontiguousarray(batch)})
        # Copied: the request's own arrays are overwritten by the next picture.
        return tuple(np.array(request.get_tensor(name).data) for name in names)

    return run


def _in_order(given: set[str]) -> list[str]:
    if not {"map", "score"} <= given:
        raise ModelError(f"The network gives {', '.join(sorted(given))}; map and score are needed: export the model again.")
    return [name for name in OUTPUTS if name in given]


