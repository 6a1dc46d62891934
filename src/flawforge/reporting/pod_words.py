"""What a model can see, in words and charts for the report: from the dict of `flawforge pod --json`.

Forged defects stand for what was forged, and every sentence here says "forged". Sizes are rounded up, for a bound is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flawforge.reporting import charts
from flawforge_runtime.calibrate import percent

Facts = dict[str, Any]
NOT_REACHED = "not reached"
GROUPS = {
    "hardest_good": ("Hardest good parts", "The strangest good pictures: the next false alarms would look like these."),
    "missed": ("Forged defects that it missed", "The largest one missed of each kind and contrast."),
    "found": ("Smallest forged defects that it found", "One of each kind."),
}


def size(value: float | None, unit: str) -> str:
    """15.2 -> "16 px", 0.761 -> "0.77 mm", None -> "not reached"; rounded up."""
    if value is None:
        return NOT_REACHED
    if unit == "px":
        return f"{math.ceil(value - 1e-9)} px"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step - 1e-9) * step:.2g} {unit}"


def view(proof: Mapping[str, Any] | None) -> Facts | None:
    """What the template shows of a proof; None without one."""
    if not proof or not proof.get("curves"):
        return None
    curves = proof["curves"]
    kinds = list(dict.fromkeys(curve["kind"] for curve in curves))
    elsewhere = proof.get("rejected_elsewhere") or {}
    return {
        "sentences": sentences(curves),
        "best": best(curves),
        "charts": [{"kind": kind, "svg": charts.pod_curves([c for c in curves if c["kind"] == kind])} for kind in kinds],
        "rows": [_row(curve) for curve in curves],
        "trained_on": ", ".join(proof["forgers"]["trained_on"]) or "none: it only looked at good pictures",
        "proved_with": ", ".join(proof["forgers"]["proved_with"]),
        "circular": sorted(
            set(proof["forgers"].get("families_trained_on", [])) & set(proof["forgers"].get("families_proved_with", []))
        ),
        "elsewhere": elsewhere if elsewhere.get("count") else None,
        "goods": proof.get("goods"),
        "alarm": proof["false_alarm"],
    }


def sentences(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each contrast, the plainest first: from which size on 9 of 10 of a kind are found, and what not."""
    lines = []
    for contrast in sorted({curve["contrast"] for curve in curves}, reverse=True):
        some = [curve for curve in curves if curve["contrast"] == contrast]
        reached = sorted((curve for curve in some if curve["a90_95"] is not None), key=lambda curve: curve["a90_95"])
        lost = [curve["kind"] for curve in some if curve["a90_95"] is None]
        words = f"Forged defects that change the tone by {percent(contrast)} of its range: "
        if reached:
            sizes = ", ".join(f"{curve['kind']} {size(curve['a90_95'], curve['unit'])}" for curve in reached)
            words += f"it finds 9 of 10 from these sizes on: {sizes}"
            words += f"; not shown for {', '.join(lost)}." if lost else "."
        else:
            words += f"it was not shown to find 9 of 10 of any kind up to {_largest(some)}."
        lines.append(words)
    return lines


def best(curves: Sequence[Mapping[str, Any]]) -> Facts:
    """The figure for the first screen: a90/95 over all kinds at the plainest contrast; "not reached" if one is not."""
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
    }


def caption(row: Mapping[str, Any]) -> str:
    """What a proof picture shows, in a line."""
    if "kind" not in row:
        return f"score {row['score']:.4g}, p {row['p_value']:.3g}"
    shown = f"{row['size']:.0f}" if row["unit"] == "px" else f"{row['size']:.2g}"
    text = f"{row['kind']}, {shown} {row['unit']}"
    aside = ", but it marks another place" if row.get("group") == "missed" and row.get("rejected") else ""
    return f"{text}, contrast {row['contrast']:g}{aside}; score {row['score']:.4g}"


def _row(curve: Mapping[str, Any]) -> Facts:
    unit = curve["unit"]
    return {
        "kind": curve["kind"],
        "contrast": f"{curve['contrast']:g}",
        "found": _found(curve),
        **{name: _at_most(curve, key) for name, key in (("a50", "a50"), ("a90", "a90"), ("bound", "a90_95"))},
        "why": curve.get("why", ""),
        "tried": f"{size(curve['smallest'], unit)} to {size(curve['largest'], unit)}",
    }


def _found(curve: Mapping[str, Any]) -> str:
    """Hits of trials, and what the share of them may be, with 95 % confidence."""
    recall = curve.get("recall") or {}
    text = f"{curve['hits']} of {curve['n']}"
    return text if recall.get("low") is None else f"{text} ({100 * recall['low']:.0f} to {100 * recall['high']:.0f} %)"


def _at_most(curve: Mapping[str, Any], key: str) -> str:
    """The size in words; the smallest size tried is an upper limit, for nothing smaller was tried."""
    text, value = size(curve[key], curve["unit"]), curve[key]
    return f"≤ {text}" if value is not None and value <= curve["smallest"] * (1 + 1e-9) else text


def _largest(curves: Sequence[Mapping[str, Any]]) -> str:
    return size(max((curve["largest"] or 0.0 for curve in curves), default=None), curves[0]["unit"])
