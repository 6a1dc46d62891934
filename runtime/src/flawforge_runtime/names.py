"""File names that other programs see: on a terminal, in a spreadsheet's cell, as part of another file's name.

A name may hold anything: bytes that are not UTF-8, line breaks, terminal escapes, a formula. Python keeps the bytes that are
not UTF-8 as lone surrogates (PEP 383), and so finds the file again; `shown` is for people, and does not.
"""

from __future__ import annotations

import re

# Control characters, lone surrogates, line separators, and the marks that turn the direction of reading.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# Where a spreadsheet would begin a formula (OWASP, "CSV Injection"; full-width signs too): at the start of a cell, and after
# the separator of the countries that write 1,5.
_FORMULA = re.compile("(^|;)(?=[=+@＝＋－＠-])")
_PATH_SIGNS = re.compile(r'[\\/:*?"<>|\s]')


def shown(text: str) -> str:
    r"""`text` as one printable line: control characters and bytes that are not UTF-8 as escapes, such as \x1b and \xe4."""
    return _UNSEEN.sub(_escape, text)


def cell(text: str) -> str:
    """`text` for a CSV cell: as `shown`, and with an apostrophe before what a spreadsheet would take for a formula."""
    return _FORMULA.sub(r"\1'", shown(text))


def part_of_name(text: str, most: int = 120) -> str:
    """`text` as part of a new file's name, on any system: at most `most` bytes of UTF-8, _ for what a name may not hold."""
    plain = _PATH_SIGNS.sub("_", _UNSEEN.sub("_", text))
    return plain.encode()[:most].decode(errors="ignore")


def _escape(match: re.Match[str]) -> str:
    sign, code = match[0], ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # the byte that was in the name
    return _SHORT.get(sign) or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
