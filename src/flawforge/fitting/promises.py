"""Which false-alarm rates are promised from so many calibration pictures, and what is told of those that cannot be."""

from __future__ import annotations

import math

from flawforge.types import CalibrationError, ConfigError
from flawforge_runtime.rates import UNSTATED, percent, percent_up, pictures_needed, rank, strictest_rate

FALSE_ALARM, REVIEW = 0.01, 0.05
FOLDS = 5  # that are proposed where few pictures are held back


def promised_rates(
    n: int,
    false_alarm: float | None,
    review: float | None,
    confidence: float | None = None,
    total: int = 0,
    holdout: float | str | None = None,
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """The two rates to promise from n pictures (or parts), held back of a total (0 = not to be told), and what to tell.

    holdout  the share or the pattern by which they were held back; None = they were not, but given to be calibrated on
    A rate that was asked for is kept or refused (CalibrationError, before any training). A default that n pictures
    cannot carry is raised to the strictest that they can, and said.
    """
    if n < 1:
        raise CalibrationError("No picture is held back, so no rate can be promised; raise --holdout.")
    strictest = strictest_rate(n, confidence)
    notes = []
    for asked in (false_alarm, review):
        try:
            rank(n, strictest if asked is None else asked, confidence)
        except CalibrationError as error:
            if asked is None or not 0 < asked < strictest or holdout is None:
                raise
            needed = pictures_needed(asked, confidence)
            ways = [f"--holdout {holdout} holds {needed} back{_in_all(needed, holdout)}"] if _in_all(needed, holdout) else []
            ways += [f"--folds takes {needed} good pictures in all"] if confidence is None else []
            told = f" ({'; '.join(ways)})" if ways else ""
            raise CalibrationError(f"{str(error).removesuffix('.')}{told}.") from None
    if false_alarm is None:
        false_alarm = max(FALSE_ALARM, strictest)
        if false_alarm > FALSE_ALARM:
            sure = "" if confidence is None else f" with {confidence:.4g} confidence"
            needed = pictures_needed(FALSE_ALARM, confidence)
            kind = "calibration" if holdout is None else "held-back"
            note = (
                f"{n} {kind} pictures support a false-alarm rate of {percent_up(false_alarm)}{sure} at best; "
                f"{percent(FALSE_ALARM)} needs {needed}{'' if holdout is None else ' held back'}{_in_all(needed, holdout)}"
            )
            if false_alarm > UNSTATED:
                few = "picture is" if n == 1 else "pictures are"
                note = f"{n} {kind} {few} not enough to state a false-alarm rate{sure}"
            if total > n and confidence is None:
                folds = percent_up(strictest_rate(total))
                note += f"; --folds {min(FOLDS, total)} calibrates on all {total}, for an estimate of {folds} at best"
            notes.append(note)
    if review is None:
        review = max(REVIEW, false_alarm)
    if review < false_alarm:
        raise ConfigError(f"--review {review:g} is below --false-alarm {false_alarm:g}; give one at least as high.")
    return (false_alarm, review), tuple(notes)


def _in_all(held: int, holdout: float | str | None) -> str:
    """Of how many good pictures a hold-out by share holds back so many; "" for another."""
    return f" of about {math.ceil(held / holdout - 1e-9)} good pictures" if isinstance(holdout, float) else ""
