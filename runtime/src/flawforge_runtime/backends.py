"""Exported networks as callables on numpy arrays: ONNX Runtime and OpenVINO, each an extra; `load` opens an export.

Both compute in float32, as the parity report was made. OpenVINO would compute in bfloat16 on processors that have it; it is
told not to, unless precision "bfloat16" is asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from flawforge_runtime import bundle
from flawforge_runtime.forks import PerProcess, shared
from flawforge_runtime.inspector import Inspector, Network, from_content
from flawforge_runtime.origin import origin_of
from flawforge_runtime.types import ConfigError, FlawforgeError, ImageError, ModelError

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}  # what a backend needs from an index
INPUTS = ("images", "inner")  # of an exported graph; the second only where the network is told where pictures lie
ENDLESS = {"Loop", "TensorIterator", "If"}  # OpenVINO operations that can run without an end; no export of ours has one
LONGEST = 120.0  # seconds for the first picture
OUTPUTS = ("map", "score", "score_map")  # of an exported graph, in a Network's order; the last only where it has one


def load(
    folder: str | Path, *, backend: str | None = None, threads: int | None = None, precision: str = "float32"
) -> Inspector:
    """Open an export folder, verify its hashes, and give the Inspector, without torch.

    One Inspector may be shared by any number of threads.

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


def instead(backend: str, model: str) -> str:
    """What to do where a folder holds another backend than the one that was asked for."""
    if backend == "torch":
        return "give the model folder that was exported"
    if backend in bundle.NETWORKS:
        return f"run `flawforge export {model} -o OUT --to {backend}` and give OUT"
    return f"give one of {', '.join(bundle.NETWORKS)}"


def network(
    content: bundle.Content, folder: str | Path, *, backend: str | None, threads: int | None, precision: str = "float32"
) -> Network:
    """The exported network in `content`; `folder` is named in errors. Options and errors as in `load`."""
    if backend is not None and backend != content.backend:
        raise ConfigError(
            f"Backend {backend} was asked for, but {folder} was exported to {content.backend}; leave the option out, or "
            f"{instead(backend, 'MODEL')}."
        )
    if precision not in ("float32", "bfloat16") or (precision == "bfloat16" and content.backend != "openvino"):
        raise ConfigError(
            f"Precision {precision} was asked for with {content.backend}; give float32, or bfloat16 with OpenVINO."
        )
    threads = threads_allowed(threads)
    package = need(content.backend)
    try:
        if content.backend == "onnx":
            loaded = PerProcess(lambda: onnx_network(package, content.exported["model.onnx"], threads))
        else:
            loaded = PerProcess(lambda: openvino_network(package, content.exported, threads, precision))
        _try_out(loaded, (int(content.config["canvas"][0]), int(content.config["canvas"][1])))
    except FlawforgeError as error:
        raise ModelError(f"The graph in {folder} is not one of ours ({error}); export again.") from error
    except Exception as error:  # each package raises classes of its own
        package = PACKAGES[content.backend]
        raise ModelError(f"{package} cannot open {folder} ({_reason(error)}); update it, or export again.") from error
    return loaded


def _try_out(network: Callable[..., tuple[Any, ...]], canvas: tuple[int, int]) -> None:
    """Judge one grey picture, so that what cannot judge is refused at once, and the first real picture finds it warm."""
    outputs = network(np.full((1, 3, *canvas), 0.5, dtype=np.float32))
    expected = ((1, *canvas), (1,), (1, *canvas))
    for name, output, shape in zip(OUTPUTS, outputs, expected, strict=False):
        if output.shape != shape or output.dtype != np.float32:
            raise ModelError(f"its {name} is {output.dtype} {output.shape}, float32 {shape} is needed")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


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


def onnx_network(onnxruntime: Any, model: bytes, threads: int) -> Graph:
    """A graph in ONNX Runtime on the CPU: n 3 h w float32 -> (map n h w, score n [, score map n h w])."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = _in_order({output.name for output in session.get_outputs()})
    tried = False

    def run(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        nonlocal tried
        if tried:
            return tuple(session.run(names, dict(inputs)))
        # The first picture is given a time limit: a harmed graph may hold a loop without an end.
        limits = onnxruntime.RunOptions()
        timer = threading.Timer(LONGEST, lambda: setattr(limits, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            outputs = tuple(session.run(names, dict(inputs), limits))
        finally:
            timer.cancel()
        tried = True
        return outputs

    return Graph(run, _is_placed({entry.name for entry in session.get_inputs()}))


def openvino_network(openvino: Any, files: Mapping[str, bytes], threads: int, precision: str) -> Graph:
    """A graph in OpenVINO on the CPU, as `onnx_network`."""
    # A core gives the thread that first compiles with it a stack for signals, and frees that stack with itself, whoever runs
    # on it by then: after a model was opened anew, the next Ctrl-C or SIGTERM would end the process. So none is ever freed.
    core = shared("openvino", openvino.Core)
    model = core.read_model(files["model.xml"], files["model.bin"])
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    names = _in_order({name for output in model.outputs for name in output.names})
    input_names = [name for name in INPUTS if name in {name for entry in model.inputs for name in entry.names}]
    loops = {operation.get_type_name() for operation in model.get_ops()} & ENDLESS
    if loops:
        raise ModelError(f"it holds {', '.join(sorted(loops))}, which no export of ours does")
    models: dict[bool, Any] = {}
    making = threading.Lock()
    idle: dict[bool, list[Any]] = {True: [], False: []}  # a request judges one picture at a time, so each call has its own

    def compiled(one: bool) -> Any:
        """A model for one picture at a time, or for any number: shapes that are known beforehand cost a sixth less."""
        with making:
            if one not in models:
                count = 1 if one else -1
                shapes = {name: [count, *list(model.input(name).partial_shape)[1:]] for name in input_names}
                model.reshape(shapes)
                models[one] = core.compile_model(model, "CPU", settings)
            return models[one]

    def run(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        one = len(inputs["images"]) == 1
        try:
            request = idle[one].pop()
        except IndexError:  # as many as there ever were calls at a time
            request = compiled(one).create_infer_request()
        try:
            request.infer(dict(inputs))
            # Copied: the request's own arrays are overwritten by its next picture.
            return tuple(np.array(request.get_tensor(name).data) for name in names)
        finally:
            idle[one].append(request)

    return Graph(run, len(input_names) > 1)


@dataclass(frozen=True)
class Graph:
    """An exported network as a callable on numpy arrays; `placed`: it is told where pictures lie on the canvas."""

    run: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    placed: bool

    def __call__(self, batch: Any, inner: Any = None) -> tuple[Any, ...]:
        inputs = {"images": np.ascontiguousarray(batch)}
        if self.placed:
            whole = np.array([[0, batch.shape[2], 0, batch.shape[3]]] * len(batch), dtype=np.float32)
            inputs["inner"] = whole if inner is None else np.ascontiguousarray(inner)
        try:
            return self.run(inputs)
        except Exception as error:  # each package raises classes of its own
            raise ImageError(f"The network could not judge this picture ({_reason(error)}); check the model.") from error


def _is_placed(inputs: set[str]) -> bool:
    if not {"images"} <= inputs <= set(INPUTS):
        taken = ", ".join(sorted(inputs))
        raise ModelError(f"The network takes {taken}; allowed are images and inner: export the model again.")
    return "inner" in inputs


def _in_order(outputs: set[str]) -> list[str]:
    if not {"map", "score"} <= outputs:
        raise ModelError(
            f"The network gives {', '.join(sorted(outputs))}; map and score are needed: export the model again."
        )
    return [name for name in OUTPUTS if name in outputs]
