"""Model folders harmed at random, most with hashes that are right again: a verdict or one sentence, never anything else.

A few hundred here; `make fuzz` sets FLAWFORGE_FUZZ to ten thousand.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flawforge.demo.washers import render_good
from flawforge.judging import loading
from flawforge.reporting import good_sheet
from flawforge.types import FlawforgeError

COUNT = int(os.environ.get("FLAWFORGE_FUZZ", "200"))
ODD: list[Any] = [None, True, -1, 0, 1, 3.7, 10**30, 1e308, "", "x" * 3000, [], {}, [[]], {"a": {"b": 1}}, float("nan")]


def harm_json(data: Any, rng: random.Random) -> Any:
    """One value somewhere in it changed to another type, an extreme, or away."""
    if isinstance(data, dict) and data and rng.random() < 0.85:
        key = rng.choice(sorted(data))
        if rng.random() < 0.15:
            return {name: value for name, value in data.items() if name != key}
        return data | {key: harm_json(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.85:
        place = rng.randrange(len(data))
        return [*data[:place], harm_json(data[place], rng), *data[place + 1 :]]
    if isinstance(data, (int, float)) and rng.random() < 0.5:
        return data * rng.choice([-1, 1000, 1e9, 1e-9])
    return rng.choice(ODD)


def harm_bytes(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(made)) if made else 0
        kind = rng.randrange(4)
        if kind == 0 and made:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[at : at + rng.randint(1, 64)]
        elif kind == 2:
            made[at:] = bytes(len(made) - at)
        else:
            made[at : at + 8] = rng.randbytes(8)
    return bytes(made)


def harm(folder: Path, rng: random.Random) -> bool:
    """Harm one file; True where the hashes were put right again."""
    target = folder / rng.choice(sorted(path.name for path in folder.iterdir() if path.name != good_sheet.FILE))
    old = target.read_bytes()
    structured = target.suffix == ".json" and rng.random() < 0.8
    target.write_bytes(json.dumps(harm_json(json.loads(old), rng)).encode() if structured else harm_bytes(old, rng))
    if rng.random() < 0.2 or target.name == "manifest.json":
        return target.read_bytes() == old
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return True


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_harmed_folder_is_a_verdict_or_a_sentence(
    backend: str, tiny_model: Path, exports: dict[str, Path], tmp_path: Path
) -> None:
    source = tiny_model if backend == "torch" else exports[backend]
    picture, folder, read, sentences = render_good(3, size=64), tmp_path / "m", 0, []
    for number in range(COUNT // 2):
        shutil.copytree(source, folder)
        rehashed = harm(folder, random.Random(f"{backend} {number}"))
        try:
            decision = loading.load(folder)(picture)
            assert rehashed or (folder / "manifest.json").read_bytes() != (source / "manifest.json").read_bytes()
            assert math.isfinite(decision.pred_score)
            read += 1
        except FlawforgeError as error:
            sentences.append(str(error))
        shutil.rmtree(folder)
    assert not any("\n" in sentence for sentence in sentences)
    assert read > 0
    assert len(sentences) > COUNT // 8


def test_weights_that_fit_their_names_and_not_each_other_are_a_sentence(washers: Path, tmp_path: Path) -> None:
    """The statistics' tables take the shape that the file gives them, so a harmed one is met when it judges."""
    from flawforge import fitting
    from flawforge.types import ImageError

    judge = fitting.run(fitting.Request(washers, tmp_path / "m", method="patchstats", size=64, settings={"filters": 4}))
    network = judge.network
    for buffer in dict(network.net.named_buffers()):  # type: ignore[attr-defined]
        if buffer.endswith("full_rows"):
            owner = network.net.get_submodule(buffer.rpartition(".")[0])  # type: ignore[attr-defined]
            owner.full_rows = owner.full_rows[:, :-3]
    with pytest.raises(ImageError, match="could not judge this picture"):
        judge(render_good(1, size=64))
