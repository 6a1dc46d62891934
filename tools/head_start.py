"""Train the weights that `guided` and `auto` begin with, on procedurally drawn products alone.

    OMP_NUM_THREADS=1 python tools/head_start.py --onward --seed 1 --learning-rate 1e-3 --out src/flawforge/weights

Each product is drawn (`procedural.product`), its statistics are fitted as `fit` would, and the segmenter learns a while from
forgeries on its pictures, by Gaussians that never saw them; then the next product takes its place. What is common to all of
them is "this is stranger than the good pictures say", not a texture. Only the forgers that `guided` trains with are used, so
the physical family stays unseen for gate and proof. Writes guided.safetensors (fp16) and guided.json, the recipe.
Workers draw products, fit them and forge, one process each, so that the segmenter need not wait. The time is the clock's and
lessons come as they are ready, so another run gives weights of the same kind and not the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from flawforge.fitting import engine
from flawforge.forge import names_in
from flawforge.methods.guided import forger, stages
from flawforge.nn import guided
from flawforge.nn.head_start import recipe
from flawforge.nn.losses import cosine_schedule
from flawforge.types import Batch, Collect, Sample
from flawforge_runtime.files import write_atomically
from flawforge_runtime.maps import to_network
from procedural import product

SIZE, BATCH, LIVE, EVERY = 192, 8, 12, 20  # canvas; batch; products at a time; lessons for which one is drawn
PICTURES = (12, 20, 32)  # of a product: few and more, for statistics of few pictures are less sure


class Drawn:
    """One product: its pictures and, in a net of its own, its statistics."""

    def __init__(self, seed: int, config: guided.Config) -> None:
        made = product(seed, SIZE)
        self.seed, self.config = seed, config
        count = PICTURES[seed % len(PICTURES)]
        self.pictures = [made.picture(np.random.default_rng([seed, i])) for i in range(count)]
        self.net = guided.Guided(config)
        self.fused: guided.Fused = {}
        clean = [to_network(picture)[0] for picture in self.pictures]
        looked = [stage for stage in stages(self.net, config) if isinstance(stage, Collect)][:5]

        def batches() -> Iterator[Batch]:
            for start in range(0, count, 4):
                x = np.stack(clean[start : start + 4])
                one = np.ones_like(x[:, :1])
                yield Batch(x, x, one * 0, one, np.arange(start, start + len(x)))

        def never(stage: int, step: int) -> Batch:
            raise AssertionError("a Collect stage forges nothing")

        engine.fit(self.net, looked, never, engine.Budget(steps=1), engine.Run(device="cpu"), clean=batches)

    def batch(self, step: int) -> Batch:
        """Pictures of this product, most of them forged."""
        forge = forger(self.config)
        parts: list[list[Any]] = [[], [], [], []]
        for place in range(BATCH):
            rng = np.random.default_rng([self.seed, step, place])
            index = int(rng.integers(len(self.pictures)))
            picture = self.pictures[index]
            other = self.pictures[(index + 1 + int(rng.integers(len(self.pictures) - 1))) % len(self.pictures)]
            mask = np.zeros(picture.shape[:2], bool)
            forged = picture
            if rng.random() < self.config.forge_share:
                made = forge(Sample(picture, other=other), rng)
                forged, mask = made.image, made.mask
            for part, each in zip(parts, (to_network(forged)[0], to_network(picture)[0], mask[None], index), strict=True):
                part.append(each)
        forged, clean = (torch.from_numpy(np.stack(part)) for part in parts[:2])
        mask = torch.from_numpy(np.stack(parts[2])).float()
        return Batch(forged, clean, mask, torch.ones_like(mask), torch.tensor(parts[3]))


Lesson = tuple[Tensor, Tensor, Tensor, Tensor]  # what the segmenter sees, guide, mask, weights


def lesson(drawn: Drawn, batch: Batch) -> Lesson:
    """What `nn.guided.loss` gives the segmenter and asks of it, with this product's statistics for a guide."""
    folds = [index % drawn.config.folds for index in batch.index.tolist()]
    picture, fused, *_ = drawn.net.look(batch.forged, folds)
    clean = guided.fused_clean(drawn.net, batch, folds, drawn.fused)
    weights = guided.learnable(fused, clean, batch.mask, batch.valid, drawn.config.seen)
    guide = guided.enlarge(guided.guide_of(fused), batch.forged)
    return picture.half(), guide.half(), batch.mask, weights


def work(place: int, workers: int, seed: int, lessons: Any) -> None:
    """Draw every `workers`-th product and put lessons on some of the last ones into the queue, without end."""
    torch.set_num_threads(1)
    config = guided.Config(head_start=False)
    rng = np.random.default_rng([seed, place])
    live: list[Drawn] = []
    drawn, most = 0, max(LIVE // workers, 1)
    for step in itertools.count():
        if len(live) < most or step % EVERY == 0:
            live = [*live, Drawn(seed * 100_000 + place + drawn * workers, config)][-most:]
            drawn += 1
        each = live[int(rng.integers(len(live)))]
        lessons.put((place, drawn, lesson(each, each.batch(step))))


def loss(net: guided.Guided, each: Lesson, config: guided.Config) -> dict[str, Tensor]:
    """The loss of `guided` for the common segmenter."""
    picture, guide, mask, weights = each
    with torch.autocast("cpu", torch.bfloat16):
        logit = net.segment(picture.float().contiguous(memory_format=torch.channels_last), guide.float()).float()
    return guided.losses(logit, mask, weights, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--onward", action="store_true", help="begin with the weights that flawforge ships now")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = guided.Config(head_start=options.onward)
    net = guided.Guided(config).to(memory_format=torch.channels_last)
    parameters = [*net.unet.parameters(), net.skip, net.bias]
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=1e-4)
    context = torch.multiprocessing.get_context("spawn")
    lessons = context.Queue(maxsize=4 * options.workers)
    for place in range(options.workers):
        context.Process(target=work, args=(place, options.workers, options.seed, lessons), daemon=True).start()
    start, step, drawn = time.monotonic(), 0, [0] * options.workers
    shown: dict[str, float] = {}
    while (progress := (time.monotonic() - start) / 60 / options.minutes) < 1:
        place, drawn_there, each = lessons.get(timeout=300)  # raises Empty where every worker has died
        drawn[place] = drawn_there
        net.train()
        losses = loss(net, each, config)
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * cosine_schedule(progress)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        step += 1
        for name, value in losses.items():
            shown[name] = 0.98 * shown.get(name, float(value.detach())) + 0.02 * float(value.detach())
        if step % 50 == 0:
            print(step, f"{progress:.2f}", sum(drawn), {name: round(value, 4) for name, value in shown.items()}, flush=True)
    kept = {name: value for name, value in net.state_dict().items() if name.startswith(("unet.", "skip", "bias"))}
    data = save({name: (each.half() if each.is_floating_point() else each).contiguous() for name, each in kept.items()})
    made = {
        "script": "tools/head_start.py",
        "seed": options.seed,
        "minutes": options.minutes,
        "workers": options.workers,
        "learning_rate": options.learning_rate,
        "steps": step,
        "products": sum(drawn),
        "onward_from": recipe() if options.onward else None,
        "pictures": PICTURES,
        "size": SIZE,
        "forgers": list(names_in(forger(config))),
        "form": {name: getattr(config, name) for name in guided.FORM},
        "sha256": hashlib.sha256(data).hexdigest(),
        "photographs": 0,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "guided.safetensors", data)
    write_atomically(options.out / "guided.json", (json.dumps(made, indent=1) + "\n").encode())
    print(made)


if __name__ == "__main__":
    main()
