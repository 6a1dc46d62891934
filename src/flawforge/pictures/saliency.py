"""Where a picture has something worth spoiling: h w float32 in [0, 1], by weightless means or from one of our networks.

    spectral    what is rare in the picture's own spectrum (Hou and Zhang, CVPR 2007); one picture, no weights
    foreground  what differs from the background's colours, which are learnt from the good pictures' frames
    layercam    what moves a network's score (Jiang et al., LayerCAM, TIP 2021); any of our networks, torch loaded lazily
    ones        everywhere

A saliency that covers under 5 % or over 80 % of the picture says nothing (a texture has no object): it becomes ones, and
the note says so (thresholds are an assumption). Maps are kept on disk under the hash of picture, kind and weights.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import ConfigError, Image, Map
from flawforge_runtime.files import write_atomically

KINDS = ("spectral", "foreground", "layercam", "ones")
GUARD = (0.05, 0.8)  # share of the picture above 0.5 outside which a saliency is no object
FRAME = 0.04  # of the shorter side: the border that `Background` takes its colours from
SPECTRUM = 64  # px, the side at which the spectral residual is taken; source: the paper
FORMAT = b"saliency 1\n"  # part of every hash: raise it when a kind's result changes


class Saliency(NamedTuple):
    """map h w float32 in [0, 1]; note says in a few words where it comes from, or why it is ones."""

    map: Map
    note: str


@dataclass(frozen=True)
class Background:
    """Colours of the background: clusters of the frames' colours, each with the distance that holds 99 % of its own.

    centres  k 3 float32, in units of the range; reach  k float32
    """

    centres: NDArray[np.float32]
    reach: NDArray[np.float32]


def saliency(
    picture: Image,
    kind: str = "spectral",
    *,
    background: Background | None = None,
    network: Any = None,
    level: int | None = None,
    cache: Path | None = None,
) -> Saliency:
    """The picture's saliency; h w c uint8 or float32 in [0, 1] -> h w float32 in [0, 1].

    background  for "foreground": what `background_of` learnt; None = from this picture's own frame
    network     for "layercam": a torch module whose forward takes n 3 h w in [0, 1]; it is left as it was
    level       for "layercam": 0 = the finest resolution, counted downwards; None = the mean over all levels
    cache       a folder for finished maps, made where missing; None = none

    Raises ConfigError for an unknown kind, a missing network, or a level that the network does not have.
    """
    if kind not in KINDS:
        raise ConfigError(f"saliency kind {kind!r} is unknown; it must be one of {', '.join(KINDS)}.")
    if kind == "layercam" and network is None:
        raise ConfigError("saliency kind 'layercam' was given no network; pass one, or choose spectral or foreground.")
    if kind == "ones":
        return Saliency(np.ones(picture.shape[:2], np.float32), "ones")
    file = None
    if cache is not None:
        file = cache / f"{_key(picture, kind, background, network, level)}.npz"
        cached = _kept(file, picture.shape[:2])
        if cached is not None:
            return cached
    if kind == "spectral":
        result = guarded(spectral_residual(picture), "spectral")
    elif kind == "foreground":
        result = guarded(foreground(picture, background or background_of([picture])), "foreground")
    else:
        result = guarded(layercam(picture, network, level), "layercam" if level is None else f"layercam level {level}")
    if file is not None:
        _keep(file, result)
    return result


def guarded(values: Map, note: str) -> Saliency:
    """The map, or ones where its share above 0.5 lies outside GUARD."""
    share = float(np.mean(values > 0.5))
    if GUARD[0] <= share <= GUARD[1]:
        return Saliency(values, note)
    return Saliency(np.ones_like(values), f"ones: {note} marks {share:.1%} of the picture, which is no object")


def spectral_residual(picture: Image) -> Map:
    """Hou and Zhang 2007, eqs. 1 to 5, at 64 px, mean 3 x 3 on the log spectrum, Gaussian on the result.

    The result is stretched so that its 95th percentile is 1; a picture without any detail gives zeros.
    """
    grey = _grey(picture)
    small = cv2.resize(grey, (SPECTRUM, SPECTRUM), interpolation=cv2.INTER_AREA).astype(np.float64)
    spectrum = np.fft.fft2(small - small.mean())
    size = np.abs(spectrum)
    if float(size.max()) < 2e-3:  # half a grey level at one pixel: nothing but rounding
        return np.zeros(picture.shape[:2], np.float32)
    log = np.log(size + 1e-3 * size.mean())
    residual = log - cv2.blur(log, (3, 3), borderType=cv2.BORDER_REFLECT_101)
    back = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    power = cv2.GaussianBlur(np.abs(back) ** 2, (0, 0), 2.5)
    large = cv2.resize(power.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    top = float(np.quantile(large, 0.95))
    return np.asarray(np.clip(large / np.float32(max(top, 1e-12)), 0.0, 1.0), np.float32)


def background_of(pictures: Iterable[Image], clusters: int = 3, seed: int = 0, least: float = 0.0) -> Background:
    """Learn the background's colours from the frames (4 % of the side) of good pictures: k-means on at most 4,000 pixels.

    least  share of the frames' pixels below which a cluster is dropped: a rim, a reflection, a part that juts in
    """
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    taken = []
    for picture in pictures:
        frame = _frame(_three(picture))
        taken.append(frame[rng.integers(0, len(frame), min(len(frame), 500))])
    if not taken:
        raise ConfigError("background_of was given no picture; give at least one good picture.")
    pixels = np.concatenate(taken)
    pixels = pixels[rng.permutation(len(pixels))[:4000]]
    count = min(clusters, len(np.unique(pixels, axis=0)))
    kmeans = KMeans(count, n_init=2, random_state=seed).fit(pixels)
    centres = np.asarray(kmeans.cluster_centers_, np.float32)
    far = np.linalg.norm(pixels - centres[kmeans.labels_], axis=1)
    reach = [max(float(np.quantile(far[kmeans.labels_ == k], 0.99)), 0.02) for k in range(count)]
    frequent = np.bincount(kmeans.labels_, minlength=count) >= min(least * len(pixels), np.bincount(kmeans.labels_).max())
    return Background(centres[frequent], np.asarray(reach, np.float32)[frequent])


def foreground(picture: Image, background: Background) -> Map:
    """0 where a pixel's colour is within a background cluster's reach, 1 from twice the reach on, closed and smoothed."""
    h, w = picture.shape[:2]
    unit = max(1.0, max(h, w) / 256.0)
    size = (max(1, round(w / unit)), max(1, round(h / unit)))
    small = cv2.resize(_three(picture), size, interpolation=cv2.INTER_AREA)
    far = [
        np.linalg.norm(small - centre, axis=2) / reach
        for centre, reach in zip(background.centres, background.reach, strict=True)
    ]
    marked = np.asarray(np.clip(np.min(far, axis=0) - 1.0, 0.0, 1.0), np.float32)
    closed = cv2.morphologyEx(marked, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    smooth = cv2.GaussianBlur(closed, (0, 0), 1.5)
    return np.asarray(np.clip(cv2.resize(smooth, (w, h), interpolation=cv2.INTER_LINEAR), 0.0, 1.0), np.float32)


def layercam(picture: Image, network: Any, level: int | None = None) -> Map:
    """LayerCAM of a network's score: ReLU(sum_k ReLU(dscore / dA_k) A_k) per resolution, each stretched to [0, 1].

    The score is Evidence.score, or the highest logit of a classifier. One convolution speaks for each resolution: the last
    but one, since a layer before a stride or a pooling gives a chequered map (a note of LayerCAM's authors).
    """
    import torch

    maps: list[Any] = []
    handles = []

    def keep(_module: Any, _given: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor) and out.ndim == 4 and out.requires_grad and min(out.shape[2:]) > 1:
            out.retain_grad()
            maps.append(out)

    was_training = network.training
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    planes = torch.from_numpy(np.ascontiguousarray(_three(picture).transpose(2, 0, 1))[None]).to(device)
    try:
        network.eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                handles.append(module.register_forward_hook(keep))
        with torch.enable_grad():
            out = network(planes.requires_grad_(True))
            score = out.score.sum() if hasattr(out, "score") else out.flatten(1).max(dim=1).values.sum()
            grads = torch.autograd.grad(score, maps, allow_unused=True) if maps else ()
    finally:
        for handle in handles:
            handle.remove()
        network.train(was_training)
    return _joined([(m.detach(), g) for m, g in zip(maps, grads, strict=True) if g is not None], picture.shape[:2], level)


def _joined(layers: list[tuple[Any, Any]], shape: tuple[int, int], level: int | None) -> Map:
    """The CAM of one level, or the mean over all; `layers` are (activation, gradient) in the order of the forward pass."""
    by_size: dict[tuple[int, int], list[tuple[Any, Any]]] = {}
    for activation, gradient in layers:
        by_size.setdefault(tuple(activation.shape[2:]), []).append((activation, gradient))
    sizes = sorted(by_size, reverse=True)
    if not sizes:
        raise ConfigError("layercam was given a network without convolutions that act on its score; use spectral instead.")
    if level is not None and not 0 <= level < len(sizes):
        raise ConfigError(f"layercam level is {level}; this network has levels 0 to {len(sizes) - 1}.")
    total = np.zeros(shape, np.float32)
    chosen = sizes if level is None else [sizes[level]]
    for size in chosen:
        group = by_size[size]
        activation, gradient = group[-2] if len(group) > 1 else group[-1]
        cam = (gradient.clamp(min=0.0) * activation).sum(dim=1).clamp(min=0.0)[0].float().cpu().numpy()
        spread = float(cam.max() - cam.min())
        cam = (cam - cam.min()) / spread if spread > 0.0 else np.zeros_like(cam)
        total += cv2.resize(cam.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(total / len(chosen), 0.0, 1.0), np.float32)


def _three(picture: Image) -> NDArray[np.float32]:
    """h w 3 float32 in [0, 1]."""
    values = picture.astype(np.float32)
    if picture.dtype == np.uint8:
        values /= np.float32(255.0)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def _grey(picture: Image) -> NDArray[np.float32]:
    return np.ascontiguousarray(_three(picture).mean(axis=2))


def _frame(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colours n 3 of a picture's frame."""
    wide = max(1, round(FRAME * min(values.shape[:2])))
    inside = np.zeros(values.shape[:2], bool)
    inside[wide:-wide, wide:-wide] = True
    return values[~inside]


def _key(picture: Image, kind: str, background: Background | None, network: Any, level: int | None) -> str:
    """sha256 over the picture's bytes and everything else that the map depends on."""
    digest = hashlib.sha256(FORMAT + f"{kind} {level} {picture.shape} {picture.dtype}\n".encode())
    digest.update(picture.tobytes())
    if kind == "foreground" and background is not None:
        digest.update(background.centres.tobytes() + background.reach.tobytes())
    if kind == "layercam":
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _kept(file: Path, shape: tuple[int, int]) -> Saliency | None:
    """A map from the cache; None where there is none or the file is damaged (it is then made again)."""
    try:
        content = file.read_bytes()  # np.load of a path leaves the file open when it is damaged
        with np.load(io.BytesIO(content), allow_pickle=False) as parts:
            values, note = parts["map"], str(parts["note"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return Saliency(values, note) if values.shape == shape and values.dtype == np.float32 else None


def _keep(file: Path, result: Saliency) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, map=result.map, note=np.asarray(result.note))
    write_atomically(file, buffer.getvalue())
