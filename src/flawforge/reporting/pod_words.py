"""What a model finds of synthetic defects, in words and charts for the report: from the dict of `flawforge pod --json`.

They stand for the defects that were drawn, and every sentence here says "synthetic". Sizes are rounded up, as bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flawforge.reporting import charts
from flawforge.reporting.charts import size
from flawforge_runtime.rates import percent

Facts = dict[str, Any]
NEEDED = 29  # so many found and none missed show 90 % with 95 % confidence: 0.9 ** 29 < 0.05
GROUPS = {
    "missed": ("Synthetic defects that it missed", "The largest one missed of each kind and contrast."),
    "found": ("Smallest synthetic defects that it found", "One of each kind."),
    "hardest_good": ("Most anomalous good parts", "The next false alarms would look like these."),
}


def view(proof: Mapping[str, Any] | None, shorter_side: float | None = None) -> Facts | None:
    """What the template shows of a proof; None without one.

    shorter_side  of the good pictures in px, to draw sizes to scale; None = not known
    """
    if not proof or not proof.get("curves"):
        return None
    curves = proof["curves"]
    kinds = list(dict.fromkeys(curve["kind"] for curve in curves))
    contrasts = sorted({curve["contrast"] for curve in curves}, reverse=True)
    plainest = sorted(curves, key=lambda curve: -curve["contrast"])  # solid lines are of the highest contrast
    elsewhere = proof.get("rejected_elsewhere") or {}
    reasons = list(dict.fromkeys(curve["why"] for curve in curves if curve.get("why")))
    extent = None if shorter_side is None else shorter_side * (proof.get("mm_per_pixel") or 1.0)
    return {
        "sentences": sentences(curves),
        "real": real_in_words(proof.get("real_defects")),
        "best": best(curves),
        "smallest": _smallest(curves, kinds, contrasts, extent),
        "charts": [{"kind": kind, "svg": charts.pod_curves([c for c in plainest if c["kind"] == kind])} for kind in kinds],
        "legend": [{"sample": charts.line_sample(i), "contrast": percent(contrast)} for i, contrast in enumerate(contrasts)],
        "rows": [_row(curve, reasons) for curve in curves],
        "reasons": [{"mark": _mark(i), "text": reason} for i, reason in enumerate(reasons)],
        "trained_on": ", ".join(proof["forgers"]["trained_on"]) or "none: it only looked at good pictures",
        "proved_with": ", ".join(proof["forgers"]["proved_with"]),
        "circular": sorted(
            set(proof["forgers"].get("families_trained_on", [])) & set(proof["forgers"].get("families_proved_with", []))
        ),
        "elsewhere": elsewhere if elsewhere.get("count") else None,
        "goods": proof.get("goods"),
        "too_few": too_few((proof.get("recipe") or {}).get("count", NEEDED), proof.get("goods", 0)),
        "alarm": proof["false_alarm"],
    }


def too_few(count: int, goods: int) -> list[str]:
    """What the number of synthetic defects and of good pictures rules out, for people; [] = nothing.

    count  of each kind and contrast
    """
    notes = []
    if count < NEEDED:
        each = "1 defect" if count == 1 else f"{count} defects"
        notes.append(
            f"{each} per kind and contrast cannot show 90 % with 95 % confidence; that takes at least {NEEDED} (--count 48)"
        )
    if goods == 1:
        notes.append("1 good picture: every defect was drawn into the same part; use 20 or more")
    return notes


def sentences(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each contrast, the plainest first: from which size on 9 of 10 of a kind are found, and what not."""
    lines = []
    for contrast in sorted({curve["contrast"] for curve in curves}, reverse=True):
        some = [curve for curve in curves if curve["contrast"] == contrast]
        reached = sorted((curve for curve in some if curve["a90_95"] is not None), key=lambda curve: curve["a90_95"])
        whole = [curve for curve in some if curve["a90_95"] is None and _missed_none(curve)]
        lost = [curve["kind"] for curve in some if curve["a90_95"] is None and curve not in whole]
        words = f"At contrast {percent(contrast)}, 9 of 10 synthetic defects are found "
        if reached:
            sizes = ", ".join(f"{curve['kind']} {size(curve['a90_95'], curve['unit'])}" for curve in reached)
            words += f"from these sizes on: {sizes}"
            words += f"; not demonstrated for {', '.join(lost)}" if lost else ""
        else:
            words = f"At contrast {percent(contrast)}, finding 9 of 10 was not demonstrated for any kind of synthetic defect"
            words += f" up to {_largest(some)}"
        if whole:
            counts = [f"{c['kind']} ({all_found(c['n'], size(c['smallest'], c['unit']))})" for c in whole]
            words += f"; none was missed, but more are needed to show it: {', '.join(counts)}"
        lines.append(f"{words}.")
    return lines


def real_in_words(curve: Mapping[str, Any] | None) -> str:
    """What it finds of real defects that were grafted onto good pictures; "" where none were given."""
    if not curve:
        return ""
    if not curve.get("n"):
        return "None of the real defects that were given could be grafted onto a good picture."
    bound = "not demonstrated" if curve["a90_95"] is None else f"from {size(curve['a90_95'], curve['unit'])} on"
    return (
        f"Real defects that training never saw, grafted onto good pictures at 0.5 to 2 times their size: {_found(curve)} "
        f"found; 9 of 10: {bound}."
    )


def all_found(n: int, smallest: str) -> str:
    """ "all 32 found, from 7 px": what is known where none was missed. smallest: the smallest size tried, with its unit."""
    return f"{'the only one' if n == 1 else f'all {n}'} found, from {smallest}"


def _missed_none(curve: Mapping[str, Any]) -> bool:
    return bool(0 < curve["n"] == curve["hits"])


def best(curves: Sequence[Mapping[str, Any]]) -> Facts:
    """The figure for the first screen: a90/95 over all kinds at the plainest contrast; "not shown" if one is not.

    of           kinds for which there is a bound
    missed_none  no kind for which there is none has a miss
    """
    contrast = max(curve["contrast"] for curve in curves)
    some = [curve for curve in curves if curve["contrast"] == contrast]
    bounds = [curve["a90_95"] for curve in some]
    worst = None if None in bounds else max(bounds)
    reached = sum(bound is not None for bound in bounds)
    return {
        "text": size(worst, some[0]["unit"]),
        "reached": worst is not None,
        "contrast": contrast,
        "kinds": len(some),
        "of": reached,
        "missed_none": all(_missed_none(curve) for curve in some if curve["a90_95"] is None),
    }


def caption(row: Mapping[str, Any]) -> str:
    """What a proof picture shows, in a line."""
    if "kind" not in row:
        return f"score {row['score']:.4g}"
    shown = f"{row['size']:.0f}" if row["unit"] == "px" else f"{row['size']:.2g}"
    text = f"{row['kind']}, {shown} {row['unit']}"
    aside = ", but it marks another place" if row.get("group") == "missed" and row.get("rejected") else ""
    return f"{text}, contrast {percent(row['contrast'])}{aside}; score {row['score']:.4g}"


def _smallest(
    curves: Sequence[Mapping[str, Any]], kinds: Sequence[str], contrasts: Sequence[float], extent: float | None
) -> Facts:
    """The table of the first screen: kinds by contrasts, the size from which on 9 of 10 are found, drawn to scale."""
    by_place = {(curve["kind"], curve["contrast"]): curve for curve in curves}
    rows, drawn = [], False
    for kind in kinds:
        cells = []
        for contrast in contrasts:
            curve = by_place.get((kind, contrast))
            bound = None if curve is None else curve["a90_95"]
            dot = charts.size_dot(bound / extent) if bound is not None and extent else ""
            drawn |= bool(dot)
            text = "–" if curve is None else charts.size_of(curve, "a90_95")
            if curve is not None and _missed_none(curve):  # a bound above the smallest one found is no failure to find it
                whole = all_found(curve["n"], size(curve["smallest"], curve["unit"]))
                text = whole if bound is None else f"{text} ({whole})" if bound > curve["smallest"] else text
            cells.append({"text": text, "dot": dot})
        rows.append({"kind": kind, "cells": cells})
    return {
        "contrasts": [percent(contrast) for contrast in contrasts],
        "rows": rows,
        "to_scale": drawn,
        "unbounded": any(curve["a90_95"] is None and _missed_none(curve) for curve in curves),
    }


def _row(curve: Mapping[str, Any], reasons: Sequence[str]) -> Facts:
    unit = curve["unit"]
    return {
        "kind": curve["kind"],
        "contrast": percent(curve["contrast"]),
        "found": _found(curve),
        **{name: _at_most(curve, key) for name, key in (("a50", "a50"), ("a90", "a90"), ("bound", "a90_95"))},
        "mark": _mark(reasons.index(curve["why"])) if curve.get("why") else "",
        "tried": f"{size(curve['smallest'], unit)} to {size(curve['largest'], unit)}" if curve["n"] else "–",
    }


def _mark(index: int) -> str:
    """A footnote's letter."""
    return "abcdefghijklmnopqrstuvwxyz"[index % 26]


def _found(curve: Mapping[str, Any]) -> str:
    """Hits of trials, and what the share of them may be, with 95 % confidence."""
    recall = curve.get("recall") or {}
    text = f"{curve['hits']} of {curve['n']}"
    return text if recall.get("low") is None else f"{text} ({100 * recall['low']:.0f} to {100 * recall['high']:.0f} %)"


def _at_most(curve: Mapping[str, Any], key: str) -> str:
    """The size in words; the smallest size tried is an upper limit, for nothing smaller was tried."""
    text, value = charts.size_of(curve, key), curve[key]
    return f"≤ {text}" if value is not None and value <= curve["smallest"] * (1 + 1e-9) else text


def _largest(curves: Sequence[Mapping[str, Any]]) -> str:
    return size(max((curve["largest"] or 0.0 for curve in curves), default=None), curves[0]["unit"])
