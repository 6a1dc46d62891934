"""Laws that every forger obeys, over the whole table."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.forge import FAMILIES, FORGERS, family, forger_from, names_in
from flawforge.forge.physical import PHYSICAL
from flawforge.reporting.contact_sheets import describe, rebuild
from flawforge.types import ConfigError, Forged, ImageError, Sample

NAMES = sorted(FORGERS)
LAWS = settings(max_examples=25, deadline=None, derandomize=True)


def picture(rng: np.random.Generator, shape: tuple[int, int], channels: int, dtype: Any, kind: str) -> Any:
    """A small picture: noise, a gradient with a disc, or one flat tone at either end or the middle of the range."""
    h, w = shape
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    if kind == "noise":
        values = rng.random((h, w, channels))
    elif kind == "disc":
        disc = np.hypot(y - 0.3, x - 0.3) < 0.2
        values = np.stack([0.2 + 0.3 * x + 0.4 * disc * (1 - 0.2 * c) for c in range(channels)], axis=2)
        values += rng.normal(0.0, 0.01, values.shape)
    else:
        values = np.full((h, w, channels), {"black": 0.0, "white": 1.0, "middle": 0.5}[kind])
    values = np.clip(values, 0.0, 1.0)
    return np.rint(values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(np.float32)


@st.composite
def samples(draw: Any) -> Sample:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(32, 80)), draw(st.integers(32, 80))
    channels, dtype = draw(st.sampled_from([1, 3])), draw(st.sampled_from([np.uint8, np.float32]))
    kind = draw(st.sampled_from(["noise", "disc", "disc", "disc", "black", "white", "middle"]))
    image = picture(rng, shape, channels, dtype, kind)
    prior = None
    if draw(st.booleans()):
        prior = (picture(rng, shape, 1, np.float32, "disc")[..., 0] > 0.55).astype(np.float32)
    other = picture(rng, shape, channels, dtype, "disc") if draw(st.booleans()) else None
    texture = picture(rng, (45, 70), draw(st.sampled_from([1, 3])), dtype, "noise") if draw(st.booleans()) else None
    return Sample(image, prior, other, texture)


def obeys(name: str, sample: Sample, forged: Forged) -> None:
    good, image, mask = sample.image, forged.image, forged.mask
    assert image.shape == good.shape
    assert image.dtype == good.dtype
    assert mask.shape == good.shape[:2]
    assert mask.dtype == np.bool_
    assert mask.any(), "an empty mask was called a forgery"
    np.testing.assert_array_equal(image[~mask], good[~mask])
    if good.dtype == np.uint8:
        change = np.abs(image.astype(int) - good.astype(int)).max(axis=2) / 255.0
    else:
        change = np.abs(image - good).max(axis=2)
        assert np.isfinite(image).all()
        assert image.min() >= 0.0
        assert image.max() <= 1.0
    assert change[mask].min() >= FORGERS[name].least_change - 1e-7
    np.testing.assert_array_equal(change > 0, mask)  # the mask is the difference's support, exactly
    json.dumps(dict(forged.drawn), allow_nan=False)
    assert forged.kind in FORGERS


@pytest.mark.parametrize("name", NAMES)
@given(sample=samples(), seed=st.integers(0, 2**32 - 1))
@LAWS
def test_outside_untouched_inside_changed_in_range(name: str, sample: Sample, seed: int) -> None:
    obeys(name, sample, FORGERS[name]()(sample, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(32, 32), (32, 77), (2048, 777)])
def test_any_size(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    image = picture(rng, shape, 3, np.uint8, "disc")
    prior = (image[..., 0] > 140).astype(np.float32)
    sample = Sample(image, prior, image[::-1].copy())
    obeys(name, sample, FORGERS[name]()(sample, np.random.default_rng(4)))


@pytest.mark.parametrize("name", NAMES)
@given(sample=samples(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_pure_and_same_seed_same_bits(name: str, sample: Sample, seed: int) -> None:
    before = {k: None if v is None else v.copy() for k, v in vars(sample).items()}
    forger = FORGERS[name]()
    one, two = (forger(sample, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.drawn == two.drawn
    assert not np.shares_memory(one.image, sample.image)
    for key, value in before.items():
        if value is not None:
            np.testing.assert_array_equal(getattr(sample, key), value, err_msg=f"{name} wrote into its {key}")


@pytest.mark.parametrize("name", NAMES)
def test_any_worker_layout_gives_the_same_bits(name: str) -> None:
    rng = np.random.default_rng(1)
    forger = FORGERS[name]()
    sample = Sample(picture(rng, (48, 64), 3, np.uint8, "disc"), other=picture(rng, (48, 64), 3, np.uint8, "disc"))

    def forge(index: int) -> Forged:
        return forger(sample, np.random.default_rng([7, index]))

    alone = [forge(i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(forge, reversed(range(6))))
    for one, other in zip(alone, reversed(together), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("name", NAMES)
def test_other_seeds_forge_otherwise(name: str) -> None:
    sample = Sample(picture(np.random.default_rng(1), (64, 64), 3, np.uint8, "disc"))
    made = {FORGERS[name]()(sample, np.random.default_rng(seed)).image.tobytes() for seed in range(6)}
    assert len(made) == 6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_grey_as_one_channel_or_as_three_is_one_forgery(name: str, seed: int) -> None:
    """Channels and mask go together: a replicated grey picture stays grey, under the mask of the one-channel picture."""
    one = picture(np.random.default_rng(seed), (64, 72), 1, np.uint8, "disc")
    three = np.repeat(one, 3, axis=2)
    a = FORGERS[name]()(Sample(one), np.random.default_rng(seed))
    b = FORGERS[name]()(Sample(three), np.random.default_rng(seed))
    np.testing.assert_array_equal(b.image[..., 0], b.image[..., 1])
    np.testing.assert_array_equal(b.image[..., 0], b.image[..., 2])
    assert np.abs(a.image[..., 0].astype(int) - b.image[..., 0].astype(int)).max() <= 3
    assert np.mean(a.mask != b.mask) < 0.01


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", [np.fliplr, np.flipud, np.rot90, lambda a: np.roll(a, (5, 9), axis=(0, 1))])
def test_a_pipe_after_a_transform_keeps_mask_and_picture_together(name: str, transform: Any) -> None:
    """Forge, transform picture and mask, forge on: the union's mask is still the difference's support.

    Were mask and picture laid out differently (transposed, shifted by one), the transformed pair would part.
    """
    good = picture(np.random.default_rng(5), (56, 56), 3, np.uint8, "disc")
    first = FORGERS[name]()(Sample(good), np.random.default_rng(6))
    moved = Sample(np.ascontiguousarray(transform(first.image)))
    second = forger_from("cutpaste", shape="patch", area=0.02)(moved, np.random.default_rng(7))
    total = transform(first.mask) | second.mask
    change = (second.image != transform(good)).any(axis=2)
    assert not (change & ~total).any()
    np.testing.assert_array_equal(change[~second.mask], transform(first.mask)[~second.mask])


@pytest.mark.parametrize("name", NAMES)
def test_every_bound_is_enforced_with_the_field_named(name: str) -> None:
    checked = 0
    for field in fields(FORGERS[name]):
        if field.name in ("forgers", "weights"):
            continue
        default = getattr(FORGERS[name](), field.name)
        bad: list[Any] = [-1e9, float("nan"), float("inf"), "nonsense"]
        if isinstance(default, tuple) and len(default) == 2:
            bad += [(default[1] + 1, default[0]), (default[0],), (*default, default[1])]
        if isinstance(default, tuple) and len(default) == 4 and field.name == "jitter":
            bad += [default[:3], (2.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.6)]
        for value in bad:
            given_value = (value,) if field.name == "levels" else value
            with pytest.raises(ConfigError, match=field.name) as caught:
                FORGERS[name](**{field.name: given_value})
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
            checked += 1
    assert checked > 0 or name in ("mix", "pipe")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((31, 64, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.float64),
        np.zeros((64, 64, 3), np.uint16),
    ],
)
def test_other_arrays_are_refused(name: str, image: Any) -> None:
    with pytest.raises(ImageError, match="convert"):
        FORGERS[name]()(Sample(image), np.random.default_rng(0))


@pytest.mark.parametrize("name", NAMES)
def test_prior_of_another_size_is_refused(name: str) -> None:
    sample = Sample(np.zeros((64, 64, 3), np.uint8), prior=np.ones((32, 64), np.float32))
    with pytest.raises(ImageError, match="prior"):
        FORGERS[name]()(sample, np.random.default_rng(0))


@pytest.mark.parametrize("name", NAMES)
def test_written_down_and_rebuilt(name: str) -> None:
    forger = FORGERS[name]()
    assert rebuild(json.loads(json.dumps(describe(forger)))) == forger


def test_names_families_and_kinds_agree() -> None:
    assert all(FORGERS[name].name == name for name in FORGERS)
    assert sorted(n for members in FAMILIES.values() for n in members) == NAMES
    assert family("scratch") == "physical"
    assert names_in(PHYSICAL) == FAMILIES["physical"]
    with pytest.raises(ConfigError, match="unknown"):
        family("scratches")


def test_forger_from_names_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="'smudge' is unknown"):
        forger_from("smudge")
    with pytest.raises(ConfigError, match="no setting 'opactiy'"):
        forger_from("perlin", opactiy=0.5)
    assert forger_from("scratch", size=20.0).size == 20.0  # type: ignore[attr-defined]
