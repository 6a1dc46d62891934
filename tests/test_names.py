"""Names that are not made for terminals, spreadsheets or other files' names."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flawforge_runtime.names import cell, part_of_name, shown

NAMES = st.binary(max_size=60).map(os.fsdecode)  # every name that a POSIX disk can hold, and some that it cannot


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("teil ä 零件.png", "teil ä 零件.png"),
        (os.fsdecode(b"x\xe4.png"), r"x\xe4.png"),
        ("a\x1b[31mred\x07.png", r"a\x1b[31mred\x07.png"),
        ("two\nlines\r\t.png", r"two\nlines\r\t.png"),
        ("\x85\u2028\u202egnp.exe", r"\u0085\u2028\u202egnp.exe"),
    ],
)
def test_what_people_see(name: str, words: str) -> None:
    assert shown(name) == words


@given(NAMES)
def test_what_is_shown_is_printable_and_can_be_encoded(name: str) -> None:
    line = shown(name)
    line.encode()
    assert len((line + ".").splitlines()) == 1
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in line)
    assert shown(line) == line


@pytest.mark.parametrize("name", ["=1+cmd|' /C calc'!A0", "+1.png", "-dash.png", "@SUM(1).png", "＝1", "-1;-2"])
def test_no_cell_begins_a_formula(name: str) -> None:
    assert cell(name) == "'" + name.replace(";", ";'")


@given(NAMES)
def test_no_cell_begins_with_a_sign_that_spreadsheets_obey(name: str) -> None:
    assert not any(part.startswith(("=", "+", "-", "@", "\t", "\r")) for part in cell(name).split(";"))


def test_an_ordinary_cell_stays_as_it_is() -> None:
    assert [cell(text) for text in ("a=b.png", "today/-dash.png", "", "'=1")] == ["a=b.png", "today/-dash.png", "", "'=1"]


@given(NAMES, st.integers(min_value=0, max_value=40))
def test_a_part_of_a_name_is_short_and_harmless(name: str, most: int) -> None:
    part = part_of_name(name, most)
    assert len(part.encode()) <= most
    assert not set(part) & set('/\\:*?"<>|\0 \n')
