"""A model as an ONNX or OpenVINO folder that the runtime judges with, written only where it was proved to judge alike.

The road: torch.export -> ONNX (opset OPSET, free batch, the model's own canvas, checked by onnx) -> OpenVINO where asked
for -> int8 through NNCF where asked for -> at least PICTURES good and forged pictures judged by both, from pixels to
verdict. float32: any flipped verdict, or a difference above rounding, refuses. int8: flips are counted, and refused above a
limit.

Rounding alone can flip a verdict: the threshold is the score of a held-back picture, and that very picture lies on it. So
a float32 export's calibration is raised by the largest difference that was seen; int8 keeps the model's own, and says so.
And a picture whose verdict the model itself would change if its limits moved by LEAST_ROUNDING is a close call: float32
cannot tell on which side it lies, so it is counted apart from the flips.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from flawforge.config import checked_seed
from flawforge.demo.washers import render_good
from flawforge.forge import FORGERS
from flawforge.judging import loading
from flawforge.pictures.listing import evenly, pictures_in
from flawforge.reporting import card
from flawforge.types import ConfigError, DataError, Image, ImageError, ModelError, Sample
from flawforge_runtime import backends, bundle
from flawforge_runtime.calibrate import Calibration
from flawforge_runtime.files import free
from flawforge_runtime.images import Picture, letterbox, read_picture
from flawforge_runtime.inspector import Inspector, from_content
from flawforge_runtime.maps import lay, to_network

OPSET = 18
PICTURES = 64  # least number compared: half good, half forged
TUNED_ON = 64  # pictures that int8's ranges are measured on
ROUNDING = 1e-3  # float32: most that a score or map value may differ, as share of the compared ones' spread; assumption
LEAST_ROUNDING = 1e-5  # or as share of the largest value: float32 carries seven digits, and sums lose some; assumption
MAX_FLIPS = 0.02  # int8: most flipped verdicts, as share of the compared pictures; assumption
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}


@dataclass(frozen=True)
class Parity:
    """What two networks said of the same pictures.

    good, forged       how many of each were compared
    source             where the good ones came from
    score_difference   the largest, in the score's own units; likewise map_difference
    score_spread       highest less lowest score of the model; map_spread likewise: what the differences are seen against
    score_size         largest absolute score of the model; map_size likewise
    flips              one line per verdict that changed
    close_calls        the same for verdicts that rounding alone decides
    """

    good: int
    forged: int
    source: str
    score_difference: float
    map_difference: float
    score_spread: float
    map_spread: float
    score_size: float
    map_size: float
    flips: tuple[str, ...]
    close_calls: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"compared on {self.good} good and {self.forged} forged pictures ({self.source})",
            f"largest difference of a score {self.score_difference:.3g} (scores spread over {self.score_spread:.3g}), "
            f"of a map {self.map_difference:.3g} (maps over {self.map_spread:.3g})",
            f"flipped verdicts: {len(self.flips)} of {self.good + self.forged}"
            + (f", and {len(self.close_calls)} that lie on a limit to the last digit" if self.close_calls else ""),
        ]


@dataclass(frozen=True)
class Export:
    """An export that was written to `folder`, and how alike it judges."""

    folder: Path
    to: str
    int8: bool
    parity: Parity

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"  {line}" for line in self.parity.lines()]
        if self.int8 and self.parity.flips:
            again = f"`flawforge calibrate {self.folder} GOOD` sets the thresholds anew for int8"
            lines.append(f"  first flip: {self.parity.flips[0]}; {again}")
        return [*lines, f"export: {self.folder}"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        parity = dataclasses.asdict(self.parity)
        parity |= {"flips": list(self.parity.flips), "close_calls": list(self.parity.close_calls)}
        return {"folder": str(self.folder), "to": self.to, "int8": self.int8, "parity": parity}


def export(
    model: str | Path | Inspector,
    out: str | Path,
    to: str,
    *,
    int8: bool = False,
    good: str | Path | None = None,
    pictures: int = PICTURES,
    max_flips: float = MAX_FLIPS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Export:
    """Write `out`, a model folder that judges without torch. Nothing is written if the export fails.

    model      a model folder, or an Inspector that fit or load gave
    to         "onnx" or "openvino"
    good       folder of good pictures to compare on; None = those held back by `fit` where they still are, else drawn ones
    pictures   how many to compare, PICTURES or more; half of them forged, more where there are few good ones
    max_flips  int8 alone: share of the compared pictures in [0, 1] whose verdict may change
    progress   called with the name of each step

    Raises ConfigError (an option, a package that is missing), ModelError (no model, `out` exists, no parity), DataError.
    """
    out, good = Path(out), None if good is None else Path(good)
    _check(out, to, int8, pictures, max_flips)
    seed = checked_seed(seed)
    content = model.content if isinstance(model, Inspector) else bundle.read(Path(model))
    if content is None:
        raise ModelError("This inspector was not made by fit or load, so there is no model to export.")
    if content.backend != "torch":
        raise ModelError(f"{model} is an export already; give the model folder that it was exported from.")
    net = loading.torch_net(content)
    reference = from_content(content, loading.numpy_network(net, "cpu"))
    goods, source = good_pictures(content, good, max(pictures, PICTURES) // 2 + (TUNED_ON if int8 else 0))
    progress("graph")
    exported = {"model.onnx": to_onnx(net, reference.canvas)}
    layers = trained_layers(exported["model.onnx"], net) if int8 else set()
    if to == "openvino":
        progress("OpenVINO")
        exported = to_openvino(exported["model.onnx"])
    if int8:
        progress("int8")
        exported = to_int8(exported, tuning_batches(goods, reference, seed), layers)
    facts: dict[str, Any] = {"from": content.model_id, "to": to, "precision": "int8" if int8 else "float32", "opset": OPSET}
    private = ("held_back", "defects")
    config = {key: value for key, value in content.config.items() if key not in private} | {"export": facts}
    result = dataclasses.replace(content, config=config, tensors=b"", exported=exported)
    network = backends.network(result, out, backend=to, threads=None)
    compared = list(to_compare(goods, reference.canvas, max(pictures, PICTURES), seed))
    progress("verdicts")
    raised, parity = compare(reference, from_content(result, network), compared, source, raise_calibration=not int8)
    prove(parity, int8, max_flips)
    facts["parity"] = dataclasses.asdict(parity)
    result = dataclasses.replace(result, calibration=raised)
    result = dataclasses.replace(result, card=card.model_card(result))
    with bundle.hold(out):
        bundle.write(out, result)
    return Export(out, to, int8, parity)


def _check(out: Path, to: str, int8: bool, pictures: int, max_flips: float) -> None:
    """All that can be refused before any work."""
    if to not in NEEDED:
        raise ConfigError(f"--to was given as {to}; allowed are {' and '.join(NEEDED)}.")
    if pictures < PICTURES:
        raise ConfigError(f"{pictures} pictures were asked for to compare on; allowed are {PICTURES} or more.")
    if not 0.0 <= max_flips <= 1.0:
        raise ConfigError(f"--max-flips was given as {max_flips:g}; allowed is a share from 0 to 1.")
    if not free(out):
        raise ModelError(bundle.TAKEN.format(folder=out))
    missing = []
    for package in (*NEEDED[to], *(("nncf",) if int8 else ())):
        try:
            import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise ConfigError(f"An export to {to} needs what is not installed here; run `pip install {' '.join(missing)}`.")


def to_onnx(net: Any, canvas: tuple[int, int]) -> bytes:
    """The network as ONNX: images n 3 h w -> map n h w, score n [, score_map n h w]; n is free, h and w the canvas.

    A network that is told where pictures lie on the canvas (`placed`) has a second input, inner n 4.
    """
    import onnx
    import torch

    class Outputs(torch.nn.Module):
        """A graph has tensors for outputs, not Evidence."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            return tuple(output for output in self.net(*inputs) if output is not None)

    pair = torch.rand(2, 3, *canvas, generator=torch.Generator().manual_seed(0))
    placed = torch.tensor([[0, canvas[0], 0, canvas[1]]] * 2, dtype=torch.float32)
    example = (pair, placed) if getattr(net, "placed", False) else (pair,)
    with torch.inference_mode():
        names = backends.OUTPUTS[: len(Outputs().eval()(*example))]
    some = torch.export.Dim("n", max=4096)
    file = BytesIO()
    with _quiet():
        # Apart from the conversion, which would write a graph for two pictures alone where a network hides n (`len(x)`).
        traced = torch.export.export(Outputs().eval(), example, dynamic_shapes=(tuple({0: some} for _ in example),))
        program = torch.onnx.export(
            traced,
            example,
            input_names=list(backends.INPUTS[: len(example)]),
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        onnx.save(program.model_proto, file)
    onnx.checker.check_model(file.getvalue(), full_check=True)
    return file.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torch's own insides and of torchvision, which we do not use; what counts is the comparison."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_openvino(graph: bytes) -> dict[str, bytes]:
    """An ONNX graph as OpenVINO's two files, weights in float32."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="flawforge-") as folder:
        (Path(folder) / "model.onnx").write_bytes(graph)
        return _openvino_files(openvino.Core().read_model(str(Path(folder) / "model.onnx")), Path(folder))


def _openvino_files(model: Any, folder: Path) -> dict[str, bytes]:
    import openvino

    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    return {name: (folder / name).read_bytes() for name in ("model.xml", "model.bin")}


def trained_layers(graph: bytes, net: Any) -> set[str]:
    """Names of the ONNX graph's layers whose weights training moved: layers trained by gradient tolerate int8.

    Statistics do not: computing an inverse covariance, a log or a distance in int8 changes half of the verdicts. Raises
    ConfigError for a network without such a layer.
    """
    import onnx

    trained = {f"net.{name}" for name, _ in net.named_parameters()}
    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    nodes = onnx.load_from_string(graph).graph.node
    names = {node.name for node in nodes if node.op_type in layers and trained & set(node.input)}
    if not names:
        raise ConfigError("No layer of this model was trained, and statistics stay in float32; leave out --int8.")
    return names


def to_int8(exported: Mapping[str, bytes], batches: Sequence[Any], layers: Set[str]) -> dict[str, bytes]:
    """The same graph, its `layers` with int8 weights and inputs (NNCF), their ranges from `batches` (see tuning_batches)."""
    import nncf

    def quantised(model: Any, data: Any, names: Sequence[str]) -> Any:
        others = [name for name in names if name.partition("/")[0] not in layers]
        ignored = nncf.IgnoredScope(names=others, validate=False)
        return nncf.quantize(model, data, subset_size=len(batches), ignored_scope=ignored)

    with tempfile.TemporaryDirectory(prefix="flawforge-") as name, _quiet():
        folder = Path(name)
        if "model.onnx" in exported:
            import onnx

            graph = onnx.load_from_string(exported["model.onnx"])
            names = [tensor.name for tensor in graph.graph.input]
            data = nncf.Dataset([dict(zip(names, batch, strict=False)) for batch in batches])
            return {"model.onnx": quantised(graph, data, [node.name for node in graph.graph.node]).SerializeToString()}
        import openvino

        model = openvino.Core().read_model(exported["model.xml"], exported["model.bin"])
        names = [operation.get_friendly_name() for operation in model.get_ops()]
        single = len(model.inputs) == 1
        data = nncf.Dataset([batch[0] if single else batch for batch in batches])
        return _openvino_files(quantised(model, data, names), folder)


def good_pictures(content: bundle.Content, good: Path | None, most: int) -> tuple[list[Picture], str]:
    """Up to `most` good pictures, evenly spread, and where they are from. Raises DataError where `good` holds none."""
    if good is not None:
        paths = pictures_in(good) if good.is_dir() else []
        if not paths:
            raise DataError(f"--good was given as {good}, which holds no picture; give a folder of good pictures.")
        source = f"good ones from {good}"
    else:
        paths = [path for path in map(Path, content.config.get("held_back") or ()) if path.is_file()]
        source = "good ones held back by fit"
    readable = []
    for path in evenly(paths, most):
        with contextlib.suppress(ImageError):
            readable.append(read_picture(path, depth=content.config.get("depth")))
    if readable:
        return readable, source
    side = max(64, round((content.config["canvas"][0] * content.config["canvas"][1]) ** 0.5))
    drawn = [Picture(render_good(index, size=side), "8-bit RGB") for index in range(most)]
    return drawn, "drawn washers, as the good pictures of fit are gone: another product; give --good FOLDER for a real proof"


def to_compare(goods: Sequence[Picture], canvas: tuple[int, int], count: int, seed: int) -> Iterator[tuple[str, Picture]]:
    """("good" or the forger's name, picture): half good and half forged; forged ones fill up where there are few good."""
    good_ones = list(goods[: count // 2])
    for picture in good_ones:
        yield "good", picture
    yield from forged(good_ones, canvas, count - len(good_ones), seed)


def forged(goods: Sequence[Picture], canvas: tuple[int, int], count: int, seed: int) -> Iterator[tuple[str, Picture]]:
    """`count` forgeries, every forger in turn, each a function of (seed, its number)."""
    names = list(FORGERS)
    for number in range(count):
        name = names[number % len(names)]
        image, other = (_small(goods[(number + k) % len(goods)], canvas) for k in (0, 1))
        sample = Sample(image, other=other if other.shape == image.shape and other.dtype == image.dtype else None)
        rng = np.random.default_rng([seed, number])
        yield name, Picture(FORGERS[name]()(sample, rng).image, "forged")


def _small(picture: Picture, canvas: tuple[int, int]) -> Image:
    """The picture as it lies on the canvas, without the border: where forging is quick and training forged as well."""
    pixels, placement = letterbox(picture.pixels, canvas)
    return np.ascontiguousarray(pixels[placement.inner])


def tuning_batches(goods: Sequence[Picture], inspector: Inspector, seed: int) -> list[tuple[Any, Any]]:
    """What int8's ranges are measured on: good pictures that are not compared, where there are enough, and forgeries.

    Each as the network is given it: images 1 3 h w, inner 1 4.
    """
    spare = list(goods[PICTURES // 2 :]) or list(goods)
    half = spare[: TUNED_ON // 2]
    chosen = [*half, *(picture for _, picture in forged(spare, inspector.canvas, TUNED_ON - len(half), seed + 1))]
    laid = [lay(*letterbox(picture.pixels, inspector.canvas), None, inspector.template) for picture in chosen]
    return [(to_network(picture.pixels), picture.inner[None]) for picture in laid]


def compare(
    model: Inspector, other: Inspector, pictures: Sequence[tuple[str, Picture]], source: str, *, raise_calibration: bool
) -> tuple[Calibration | None, Parity]:
    """Judge every picture with both. Returns the calibration to give to `other`, and what was found.

    Without a calibration there is no verdict and no flip; scores and maps are compared all the same.
    """
    judged, scores, tops, score_difference, map_difference = [], [], [], 0.0, 0.0
    for kind, picture in pictures:
        one, two = model.judge(picture), other.judge(picture)
        judged.append((kind, one, two))
        scores.append(one.score)
        tops += [float(one.anomaly_map.min()), float(one.anomaly_map.max())]
        score_difference = max(score_difference, abs(one.score - two.score))
        map_difference = max(map_difference, float(np.abs(one.anomaly_map - two.anomaly_map).max()))
    spreads = max(scores) - min(scores), max(tops) - min(tops)
    sizes = max(map(abs, scores)), max(map(abs, tops))
    calibration = model.calibration
    raised = calibration
    flips: list[str] = []
    close_calls: list[str] = []
    if calibration is not None:
        if raise_calibration:
            raised = dataclasses.replace(_moved(calibration, score_difference, map_difference), fixed=calibration.fixed)
        adjusted = dataclasses.replace(other, calibration=raised)
        unmoved, *moved = (
            dataclasses.replace(model, calibration=_moved(calibration, *(sign * LEAST_ROUNDING * size for size in sizes)))
            for sign in (0, 1, -1)
        )
        for number, (kind, one, two) in enumerate(judged):
            before, after = unmoved.decide(one).verdict, adjusted.decide(two).verdict
            if before != after:
                line = f"picture {number} ({kind}): {before} at {one.score:.6g}, {after} at {two.score:.6g}"
                close = any(nudged.decide(one).verdict != before for nudged in moved)
                (close_calls if close else flips).append(line)
    good = sum(kind == "good" for kind, _, _ in judged)
    differences = score_difference, map_difference
    return raised, Parity(good, len(judged) - good, source, *differences, *spreads, *sizes, tuple(flips), tuple(close_calls))


def _moved(calibration: Calibration, score: float, peak: float) -> Calibration:
    """The calibration with its scores and peaks raised by so much, and all its limits with them."""
    return dataclasses.replace(
        calibration,
        fixed=None if calibration.fixed is None else calibration.fixed + score,
        scores=tuple(value + score for value in calibration.scores),
        peaks=tuple(value + peak for value in calibration.peaks),
    )


def prove(parity: Parity, int8: bool, max_flips: float) -> None:
    """Raises ModelError where the export does not judge as the model does."""
    count = parity.good + parity.forged
    share = len(parity.flips) / count
    if parity.flips and (not int8 or share > max_flips):
        limit = f"at most {max_flips:.1%} may" if int8 else "none may"
        hint = "leave out --int8, or allow more with --max-flips" if int8 else "report this, with the model"
        raise ModelError(
            f"The export gives {len(parity.flips)} of {count} pictures another verdict and {limit}, so nothing was written "
            f"(the first: {parity.flips[0]}); {hint}."
        )
    if int8:
        return
    for name, difference, spread, size in (
        ("score", parity.score_difference, parity.score_spread, parity.score_size),
        ("map", parity.map_difference, parity.map_spread, parity.map_size),
    ):
        if not difference <= max(ROUNDING * spread, LEAST_ROUNDING * size):
            raise ModelError(
                f"The export's {name} differs by up to {difference:.3g} from the model's, which spread over {spread:.3g}: "
                "more than rounding explains, so nothing was written; report this, with the model."
            )
