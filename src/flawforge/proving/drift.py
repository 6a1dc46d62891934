"""Are production parts still like the good parts that set the thresholds? The expected rates hold only as long as they are.

Evidence is gathered part by part as the wealth of a bettor who starts with 1 and bets against "nothing has changed". While
nothing has, the wealth ever reaches 1 / a with probability at most a (Ville's inequality), however long one watches and
however often one looks: that is the stated false-alarm rate. Half of the wealth is laid on each of two bets.

    parts that pass   conformal p-values of their scores among the held-back scores and all earlier parts, exactly uniform
                      and independent while all are exchangeable (Vovk, Gammerman and Shafer 2005, theorem 8.2); the
                      composite simple jumper bets on them rising or falling (Vovk et al., "Retrain or not retrain", 2021).
                      A part with a defect that is rejected does not count here: below the threshold, held-back and fresh
                      scores are exchangeable among themselves too, for scores that are drawn independently.
    parts rejected    that their share is above `defects` plus the bound on good parts rejected (it fails with a tenth of the
                      false-alarm rate): a bet on a coin that may come up that often at most; stakes jump too.

The picture statistics below say what moved; they alarm nobody by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from flawforge.config import checked_seed
from flawforge.pictures import copies
from flawforge.proving import intervals, leakage
from flawforge.proving.intervals import Estimate
from flawforge.reporting.kept import Kept
from flawforge.types import CalibrationError, ConfigError, DataError, Image, ImageError
from flawforge_runtime.calibrate import Calibration, calibrated
from flawforge_runtime.images import as_picture
from flawforge_runtime.looks import LOOKS, looks_of
from flawforge_runtime.rates import ExpectedRate, expected_rate, percent

Floats = NDArray[np.float64]
JUMPS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
STAKES = (0.0, 0.05, 0.2, 0.5)  # shares of the wealth laid on "rejected"; who lays nothing waits for a change
DEFECTS = 0.1  # share of defective parts on a line that is as it should be; assumption, on the safe side
RECENT = 50  # parts that the picture statistics are compared over
MOST = 1e100  # of the evidence: nobody bets on beyond it, for no alarm needs more and the numbers would overflow
MOVED = 2.0  # robust standard deviations between medians from which a statistic is named; assumption


def online_p_values(known: Sequence[float], stream: Sequence[float], rng: np.random.Generator) -> Floats:
    """Smoothed conformal p-values (m,) of a stream's scores, each among the known and all before it; high score, low p."""
    scores_so_far = sorted(map(float, known))
    p_values = np.empty(len(stream))
    for i, score in enumerate(stream):
        low, high = (int(np.searchsorted(scores_so_far, score, side)) for side in ("left", "right"))
        above, equal = len(scores_so_far) - high, high - low + 1
        p_values[i] = (above + rng.random() * equal) / (len(scores_so_far) + 1)
        scores_so_far.insert(low, float(score))
    return p_values


def jumper(p_values: Sequence[float] | Floats) -> Floats:
    """Wealth (m + 1,) of the composite simple jumper before and after each p-value; a martingale from 1 on uniform ones.

    It stops at MOST.
    """
    wealth = np.full((len(JUMPS), 3), 1.0 / 3.0)
    lean, jump = np.array([-1.0, 0.0, 1.0]), np.array(JUMPS)[:, None]
    path = [1.0]
    for p in p_values:
        if path[-1] >= MOST:
            path.append(path[-1])
            continue
        total = wealth.sum(axis=1, keepdims=True)
        wealth = ((1.0 - jump) * wealth + jump * total / 3.0) * (1.0 + lean * (p - 0.5))
        path.append(float(wealth.sum(axis=1).mean()))
    return np.array(path)


def rejects(rejected: Sequence[bool], share: float) -> Floats:
    """Wealth (m + 1,) of bets that more than `share` in (0, 1) are rejected; no martingale below that rises on average.

    It stops at MOST.
    """
    stakes, jump = np.array(STAKES), np.array(JUMPS)[:, None]
    wealth, path = np.full((len(JUMPS), len(STAKES)), 1.0 / len(STAKES)), [1.0]
    for was_rejected in rejected:
        if path[-1] >= MOST:
            path.append(path[-1])
            continue
        total = wealth.sum(axis=1, keepdims=True)
        wealth = (1.0 - jump) * wealth + jump * total / len(STAKES)
        wealth = wealth * (1.0 - stakes + (stakes / share if was_rejected else 0.0))
        path.append(float(wealth.sum(axis=1).mean()))
    return np.array(path)


def evidence(
    calibration: Calibration, scores: Sequence[float], *, alarm: float = 0.01, defects: float = DEFECTS, seed: int = 0
) -> Floats:
    """Wealth (m + 1,) before and after each part's score, in the order of use; `level` says where it alarms.

    Raises ConfigError for shares outside (0, 1), CalibrationError where no held-back score lies below the threshold.
    """
    for name, value in (("alarm rate", alarm), ("share of defective parts", defects)):
        if not 0.0 < value < 1.0:
            raise ConfigError(f"A {name} of {value:g} was given; give a share between 0 and 1, for example 0.01.")
    cut = calibration.threshold
    known = [score for score in calibration.scores if score < cut]
    if not known:
        raise CalibrationError("No calibration score lies below the threshold, so nothing can be compared; calibrate anew.")
    k = round(calibration.carried(cut) * (calibration.n + 1))
    bound = expected_rate(calibration.n, k, 1.0 - 0.1 * alarm).bound
    passed = np.array([score < cut for score in scores], bool)
    p_values = online_p_values(known, [s for s, ok in zip(scores, passed, strict=True) if ok], np.random.default_rng(seed))
    of_passed = jumper(p_values)[np.concatenate(([0], np.cumsum(passed)))]
    allowed = min(defects + (1.0 - defects) * bound, 0.999)
    return np.asarray((of_passed + rejects([s > cut for s in scores], allowed)) / 2.0)


def level(alarm: float) -> float:
    """The wealth at which the alarm goes off: 1 / (0.9 alarm), for a tenth of the rate goes to the bound on good rejects."""
    return 1.0 / (0.9 * alarm)


@dataclass(frozen=True)
class Drift:
    """Whether production parts still resemble those that the model was calibrated on.

    alarm           they are not; `at`: the part, from 1, at which that was seen; None = it was not
    n, rejected     parts, and those of them above the threshold, with `rejected_share`
    alarm_rate      probability of a false alarm, however long one watches
    defects         share of defective parts that is normal on this line
    expected        share of good parts that are rejected while nothing changes
    level           of the evidence, at which the alarm goes off; `evidence`: the highest that was reached
    looks           what the pictures look like then and now, those furthest off first, see `compare_looks`
    wealth          the evidence before and after each part
    parts           {"part", "score"} each; a part's score is that of its most anomalous picture
    skipped         {"path", "reason"} of the pictures that cannot be read
    invalid         pictures that were like no good picture
    notes           what was left aside
    threshold       rejected above this score
    saved           as what the model folder keeps it; None where it does not
    unsaved         why the model folder does not keep it; "" where it does, or was not to
    """

    alarm: bool
    at: int | None
    n: int
    rejected: int
    rejected_share: Estimate
    alarm_rate: float
    defects: float
    expected: ExpectedRate
    level: float
    evidence: float
    looks: tuple[Mapping[str, Any], ...]
    skipped: tuple[Mapping[str, str], ...]
    seed: int
    model: Mapping[str, Any]
    wealth: tuple[float, ...]
    invalid: int
    parts: tuple[Mapping[str, Any], ...]
    threshold: float
    notes: tuple[str, ...] = ()
    saved: Kept | None = None
    unsaved: str = ""

    @property
    def text(self) -> str:
        """The finding in a sentence or two."""
        named = [f"{row['name']} from {row['then']:.4g} to {row['now']:.4g}" for row in self.looks if row["moved"]]
        what = f" What moved: {', '.join(named)}." if named else ""
        _, low, high = self.rejected_share
        assert low is not None
        assert high is not None
        rejects = (
            f" {self.rejected} of {self.n} were rejected (NG; 95 % interval {percent(low)} to {percent(high)}); "
            f"{percent(self.expected.expected)} of good parts are expected."
        )
        if low > self.expected.bound and not self.alarm:
            rejects += " Check whether these parts are good."
        if self.invalid:
            pictures = "1 picture was" if self.invalid == 1 else f"{self.invalid} pictures were"
            rejects += f" {pictures} not like any good picture: check camera, light and product."
        if self.alarm:
            return (
                f"production parts no longer resemble the calibration pictures (seen after {self.at} of {self.n} parts; the "
                f"probability of a false alarm is {percent(self.alarm_rate)} or less).{rejects}{what} Look at the "
                "rejected parts: if they are defective, the model works and the line does not; if they are good, calibrate "
                "again with current good parts."
            )
        strength = math.log(self.evidence) / math.log(self.level) if self.evidence > 1 else 0.0
        return (
            f"No drift alarm in {self.n} production parts (the evidence is {100 * strength:.0f} % of what raises an alarm)."
            f"{rejects}{what}"
        )

    def lines(self) -> list[str]:
        """For people."""
        return [("DRIFT: " if self.alarm else "") + self.text, *(f"  note: {note}" for note in self.notes)]

    def as_dict(self) -> dict[str, Any]:
        """What `flawforge drift --json` writes."""
        apart = ("notes", "saved", "unsaved")
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in apart}
        return values | {
            "rejected_share": self.rejected_share._asdict(),
            "expected": self.expected.as_dict(),
            "looks": [dict(row) for row in self.looks],
            "skipped": [dict(item) for item in self.skipped],
            "model": dict(self.model),
            "wealth": list(self.wealth),
            "parts": [dict(row) for row in self.parts],
            "text": self.text,
        }


def watch(
    inspector: Any,
    pictures: Sequence[Path | Image],
    *,
    alarm: float = 0.01,
    defects: float = DEFECTS,
    parts: Mapping[Path, str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Drift:
    """Look for drift in pictures, paths or h w 3 arrays, in the order of their use.

    parts  which part each path shows, where the model was calibrated per part; a part counts when it is first seen
    Pictures that the model was trained on, or whose scores set its limits, are left out, with a note.
    Raises CalibrationError for a model without thresholds or one that needs `parts`, DataError where nothing can be
    read, or nothing is left.
    """
    seed = checked_seed(seed)
    calibration = calibrated(inspector.calibration)
    count = len(pictures)
    pictures, trained = leakage.unseen(pictures, inspector)
    pictures, notes_on_calibration = _uncalibrated(pictures, calibration)
    if calibration.per_part and parts is None:
        raise CalibrationError("The model was calibrated on parts, not pictures; say with --group-by which show one part.")
    highest: dict[str, float] = {}
    looks, skipped, invalid = [], [], 0
    for done, source in enumerate(pictures, 1):
        name = str(source) if isinstance(source, Path) else f"picture {done - 1}"
        try:
            picture = as_picture(source, max_pixels=inspector.max_pixels, depth=inspector.depth)
            decision = inspector.decide(inspector.judge(picture))  # a picture like no good one scores beyond all
        except ImageError as error:
            skipped.append({"path": name, "reason": str(error)})
            continue
        part = parts[source] if parts is not None and isinstance(source, Path) else name
        score = decision.pred_score
        highest[part] = max(score, highest.get(part, score))
        invalid += not decision.valid
        looks.append(looks_of(picture.pixels))
        if progress is not None:
            progress(done, len(pictures))
    if not looks:
        raise DataError(
            f"None of the {len(pictures)} pictures can be read; give pictures of production parts, in their order."
        )
    return Drift(
        **finding(calibration, list(highest.values()), alarm=alarm, defects=defects, seed=seed),
        looks=tuple(compare_looks(calibration.looks, looks[-RECENT:])),
        skipped=tuple(skipped),
        model=dict(inspector.about),
        invalid=invalid,
        parts=tuple({"part": part, "score": score} for part, score in highest.items()),
        notes=(*leakage.left_out(trained, count), *notes_on_calibration),
    )


def _uncalibrated(pictures: Sequence[Path | Image], calibration: Calibration) -> tuple[list[Path | Image], list[str]]:
    """Those that did not set the limits, and notes on the others. DataError where all did: they cannot have drifted."""
    known = set(calibration.pictures)
    left = [picture for picture in pictures if not (isinstance(picture, Path) and known and _mark(picture) in known)]
    gone = len(pictures) - len(left)
    if gone and not left:
        raise DataError(
            f"All {gone} pictures are those that the limits were set with, so they cannot have drifted; give pictures of "
            "production parts."
        )
    return left, [f"{gone} pictures were left out, as the limits were set with them"] if gone else []


def _mark(path: Path) -> str:
    """What tells a file again; "" for one that cannot be read, which is said later."""
    try:
        return copies.fingerprint(path)
    except OSError:
        return ""


def finding(calibration: Calibration, scores: Sequence[float], *, alarm: float, defects: float, seed: int) -> dict[str, Any]:
    """What the scores of production parts say against a calibration, as fields of `Drift`. Errors as in `evidence`."""
    path_of_wealth = evidence(calibration, scores, alarm=alarm, defects=defects, seed=seed)
    alarms = np.flatnonzero(path_of_wealth >= level(alarm))
    rejected = sum(score > calibration.threshold for score in scores)
    return {
        "alarm": bool(alarms.size),
        "at": int(alarms[0]) if alarms.size else None,
        "n": len(scores),
        "rejected": rejected,
        "rejected_share": intervals.rate(rejected, len(scores)),
        "alarm_rate": alarm,
        "defects": defects,
        "expected": calibration.rate_ng,
        "level": level(alarm),
        "evidence": float(path_of_wealth.max()),
        "seed": seed,
        "wealth": tuple(path_of_wealth.tolist()),
        "threshold": calibration.threshold,
    }


def compare_looks(reference: Mapping[str, Sequence[float]], now: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Each statistic's median then and now, and the shift in robust standard deviations; those furthest off first.

    now_low, now_high  95 % interval of the median now, by its order statistics; None for fewer than six parts
    """
    rows = []
    for name in LOOKS:
        after = np.array([statistics[name] for statistics in now])
        low, high = median_interval(after)
        rows.append(compared(name, reference, float(np.median(after)), low, high))
    return sorted((row for row in rows if row is not None), key=lambda row: -abs(row["shift"]))


def compared(
    name: str, reference: Mapping[str, Sequence[float]], now: float, low: float | None, high: float | None
) -> dict[str, Any] | None:
    """One row of `compare_looks`, of a statistic whose median is `now`; None where the reference does not have it."""
    before = np.asarray(reference.get(name, ()), float)
    if before.size == 0:
        return None
    middle = float(np.median(before))
    spread = max(1.4826 * float(np.median(np.abs(before - middle))), 1e-3 * abs(middle), 1e-6)
    shift = (now - middle) / spread
    return {
        "name": name,
        "meaning": LOOKS[name],
        "then": middle,
        "now": now,
        "now_low": low,
        "now_high": high,
        "shift": shift,
        "moved": abs(shift) > MOVED,
    }


def median_interval(values: Floats) -> tuple[float | None, float | None]:
    """95 % interval of the median behind n independent values (n,): order statistics, whatever the distribution."""
    below = int(binom.ppf(0.025, values.size, 0.5))  # the k-th smallest and largest: P(k - 1 or fewer below) <= 2.5 %
    if below < 1:
        return None, None
    ordered = np.sort(values)
    return float(ordered[below - 1]), float(ordered[-below])
