"""Do the good parts lie alike, and if not, is there a form they share? The template of `--align`, from good pictures alone.

The template is the mean of the good pictures, each laid like the one that is most like the others. Poses are used where they
pay: undone, the good pictures must differ from their mean by at most GAIN of what they differ as they lie. Textures have no
form and parts that a fixture holds have no pose to undo; both stay as they are. All limits are assumptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge_runtime import poses
from flawforge_runtime.poses import Template
from flawforge_runtime.types import ConfigError, Image, Mask

PICTURES = 24  # good ones looked at
GAIN = 1 / 3  # what may be left of the good pictures' difference from their mean
FOUND = 0.9  # share of the good pictures in which a pose must be found
ALIKE = 0.7  # least mean correlation of good pictures, once laid, with the template
BELIEVED = 0.5  # of the lowest correlation of a good picture: below that a pose is not believed
ROUNDS = 2
THUMB = 32


@dataclass(frozen=True)
class Registration:
    """What the good pictures said.

    template  None = they are judged as they lie
    note      why, in a sentence
    """

    template: Template | None
    note: str


def register(pictures: Sequence[tuple[Image, Mask]], wish: str) -> Registration:
    """Look at good pictures on one canvas, each h w 3 with its valid pixels h w.

    wish  "auto" = use poses where they pay, "on" = or refuse (ConfigError), "off" = do not look
    """
    if wish not in ("auto", "on", "off"):
        raise ConfigError(f"--align was given as {wish}; allowed are auto, on and off.")
    if wish == "off" or len(pictures) < 2:
        if wish == "on":
            raise ConfigError("--align on was given with a single good picture; at least 2 are needed to find a form.")
        return Registration(None, "")
    greys = [poses.grey_of(pixels) for pixels, _ in pictures]
    masks = [valid for _, valid in pictures]
    template = Template(greys[_most_alike(greys)], least=-1.0)
    for _ in range(ROUNDS):
        found_poses = [poses.find(pixels, valid, template) for pixels, valid in pictures]
        laid = [
            (np.asarray(poses.lay(grey, pose)), poses.lay_mask(valid, pose))
            for grey, valid, pose in zip(greys, masks, found_poses, strict=True)
            if pose
        ]
        if len(laid) < FOUND * len(pictures):
            return _without(f"a common pose was found in {len(laid)} of {len(pictures)} good pictures", wish)
        template = Template(np.rint(_mean(laid)).astype(np.uint8), least=-1.0)
    believed = [pose for pose in found_poses if pose]
    if float(np.mean([pose.likeness for pose in believed])) < ALIKE:
        return _without("the good pictures share no form to lay them by", wish)
    before, after = _difference(list(zip(greys, masks, strict=True))), _difference(laid)
    if after > GAIN * before and wish == "auto":
        return Registration(None, "")
    lowest = min(pose.likeness for pose in believed)
    shift = max(max(abs(pose.right), abs(pose.down)) for pose in believed)
    turn = max(abs(pose.turn) for pose in believed)
    note = (
        f"parts are laid alike before they are judged: good ones lie up to {shift:.1f} px of the canvas and {turn:.1f} "
        f"degrees off, and laid alike they differ from their mean by {after:.1%} instead of {before:.1%} of the variance"
    )
    return Registration(Template(template.grey, BELIEVED * lowest), note)


def _without(why: str, wish: str) -> Registration:
    if wish == "on":
        raise ConfigError(f"--align on was given, but {why}; leave it out, or give pictures of parts that lie more alike.")
    return Registration(None, "")


def _most_alike(greys: Sequence[NDArray[np.uint8]]) -> int:
    """Place of the picture that is most like the others, by thumbnails."""
    small = [cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() for grey in greys]
    flat = np.stack([(picture - picture.mean()) / (picture.std() + 1e-9) for picture in small])
    return int((flat @ flat.mean(axis=0)).argmax())


def _mean(laid: Sequence[tuple[NDArray[np.uint8], Mask]]) -> NDArray[np.float64]:
    """Of every pixel over the pictures that show it."""
    total = np.sum([grey.astype(np.float64) * valid for grey, valid in laid], axis=0)
    count = np.sum([valid for _, valid in laid], axis=0)
    filled = np.mean([grey for grey, _ in laid], axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), filled)


def _difference(laid: Sequence[tuple[NDArray[np.uint8], Mask]]) -> float:
    """1 - squared correlation with the mean picture, averaged: what brightness and contrast do not explain."""
    mean = _mean(laid)
    scores = []
    for grey, valid in laid:
        x, y = grey[valid] - grey[valid].mean(), mean[valid] - mean[valid].mean()
        scores.append(1 - float(x @ y) ** 2 / (float(x @ x) * float(y @ y) + 1e-9))
    return float(np.mean(scores))
