"""One picture: keep its bytes, judge it, draw what was rejected, and say it as a row."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import cv2
import numpy as np

from flawforge.reporting.overlays import overlay
from flawforge.serve.shelf import Served
from flawforge.serve.work import Job
from flawforge.store.kept import ENDINGS, keep_overlay, keep_picture, kept_path
from flawforge.store.not_judged import NotJudged
from flawforge.store.opening import Store
from flawforge.store.verdicts import Verdict, sampled, verdict_of
from flawforge.types import ConfigError, Decision, Image
from flawforge_runtime.decode import as_picture
from flawforge_runtime.feed import row_of
from flawforge_runtime.names import shown as printable
from flawforge_runtime.types import ImageError

KEEP = ("all", "rejects", "none")
LONGEST_SIDE = 1024  # pixels of one of the two pictures of an overlay
SHOWN_SIDE = 1600  # pixels of a picture that is shown
# Run lengths of differences to the row above: on photographs as small as zlib's level 1, in half to two thirds of its time.
FAST = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_UP,
)


def judge(served: Served, job: Job, store: Store, *, keep: str, sample_every: int, seed: int) -> tuple[Decision, Verdict]:
    """Judge a job: the decision, and the verdict to record; its files are on the disk before the verdict names them.

    keep          of KEEP: which pictures and overlays are kept, where the store has a folder for them
    sample_every  about one picture in this many is chosen for review at random; 0 = none
    Raises ImageError for what is no picture, OSError for a full disk.
    """
    decision = decide(served, job.data, job.picture)
    chosen = sampled(job.sha256, sample_every, seed)
    kept = drawn = ""
    size = 0
    rejected = decision.verdict != "OK"
    if store.files is not None and keep != "none" and (keep == "all" or rejected or chosen):
        kept = keep_picture(store.files, job.data, job.sha256)
        size = len(job.data)
        if rejected:
            data = draw(served, decision, job.data)
            drawn = keep_overlay(store.files, data, job.sha256, served.manifest)
            size += len(data)
    verdict = verdict_of(
        decision,
        source=job.source,
        sha256=job.sha256,
        model=served.name,
        model_id=served.model_id,
        manifest=served.manifest,
        station=job.station,
        part_id=job.part_id,
        picture=job.picture,
        kept=kept,
        overlay=drawn,
        size=size,
        sampled=chosen,
        key=job.key,
    )
    return decision, verdict


def not_judged(job: Job, model: str, reason: str) -> NotJudged:
    """A job without a verdict, now. Its key holds the file's hash: a key that a client uses for every part costs no row."""
    key = None if job.key is None else f"{job.key} {job.sha256} {model}"
    now = datetime.datetime.now(datetime.UTC)
    return NotJudged(now, job.source, job.station, job.part_id, job.picture, job.sha256, model, printable(reason), key)


def decide(served: Served, data: bytes, name: str) -> Decision:
    """The Decision on the bytes of a file, as `flawforge inspect` gives it on the file. Raises ImageError."""
    inspector = served.inspector
    if inspector.tile is None:
        decision = inspector(data, name)
    else:  # large pictures are read strip by strip, from a file
        ending = next((end for start, end in ENDINGS.items() if data.startswith(start)), ".bin")
        with tempfile.NamedTemporaryFile(suffix=ending) as file:
            file.write(data)
            file.flush()
            try:
                decision = inspector(Path(file.name), name)
            except ImageError as error:
                raise ImageError(str(error).replace(file.name, name or "the picture")) from error
    row = row_of(decision, served.model_id)  # a figure that is not finite is an error
    if "error" in row:
        raise ImageError(row["error"])
    return decision


def draw(served: Served, decision: Decision, data: bytes) -> bytes:
    """An overlay as PNG: the picture with its marks at the left, 4 pixels of gap, the heat map on the picture at the right.

    Both have the same size, LONGEST_SIDE at most.
    """
    size = decision.anomaly_map.shape
    pixels = decision.picture
    if pixels is None or pixels.shape[:2] != size:
        pixels = _resized(as_picture(data, max_pixels=served.inspector.max_pixels).pixels, size)
    assert served.inspector.calibration is not None  # it gave a Decision
    return png(overlay(pixels, decision, served.inspector.calibration.scale, max_side=LONGEST_SIDE))


def drawn_again(served: Served, verdict: Verdict, data: bytes) -> bytes:
    """The overlay of a kept picture, judged once more by the same model. Raises ImageError."""
    return draw(served, decide(served, data, verdict.picture), data)


def shown(data: bytes, max_pixels: int) -> bytes:
    """A picture's file as a PNG that every browser shows, SHOWN_SIDE at most. Raises ImageError."""
    pixels = as_picture(data, max_pixels=max_pixels).pixels
    height, width = pixels.shape[:2]
    factor = min(1.0, SHOWN_SIDE / max(height, width))
    pixels = _resized(pixels, (max(1, round(height * factor)), max(1, round(width * factor))))
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return png(pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2))


def kept_bytes(store: Store, name: str) -> bytes | None:
    """A kept file's bytes; None where it is gone or never was."""
    path = kept_path(store.files, name)
    return path.read_bytes() if path is not None else None


def png(pixels: Image) -> bytes:
    """h w 3 uint8 RGB as PNG, compressed little: speed counts."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), FAST)
    if not done:
        raise ConfigError("The overlay could not be encoded as PNG; report this.")
    return data.tobytes()


def _resized(pixels: Image, size: tuple[int, ...]) -> Image:
    height, width = size[:2]
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)).reshape(height, width, -1)
