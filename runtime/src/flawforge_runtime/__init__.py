"""flawforge_runtime: judge pictures with a flawforge model, without torch. flawforge itself judges with this code."""

from __future__ import annotations

__version__ = "0.1.0"
