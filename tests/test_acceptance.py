"""Acceptance criteria: decided by exact intervals alone, never passed on nothing, and reported with an exit code."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from flawforge.cli import main
from flawforge.cli.options import Share
from flawforge.proving import intervals
from flawforge.reporting import answer
from flawforge.reporting.acceptance import EXIT_CODES, Acceptance, accept, enough
from flawforge.types import ConfigError
from flawforge_runtime.calibrate import calibrate


def held(alarms: int, good: int, missed: int, defective: int, **given_: float) -> Acceptance:
    rates = {
        "false_alarm_rate": intervals.rate(alarms, good)._asdict(),
        "escape_rate": intervals.rate(missed, defective)._asdict(),
    }
    result = accept(rates, {"good": good, "defective": defective}, **given_)
    assert result is not None
    return result


@given(st.integers(1, 300), st.data(), st.sampled_from([0.01, 0.02, 0.05, 0.3]))
@settings(max_examples=150, deadline=None)
def test_the_verdict_is_that_of_the_exact_interval(of: int, data: st.DataObject, accepted: float) -> None:
    events = data.draw(st.integers(0, of))
    exact = binomtest(events, of).proportion_ci(0.95, "exact")
    found = held(events, of, 0, 10, false_alarms=accepted)
    want = "PASS" if exact.high <= accepted else "FAIL" if exact.low > accepted else "NOT ENOUGH DATA"
    assert found.verdict == want
    assert found.exit_code == EXIT_CODES[want]
    assert found.lines()[0].startswith(f"{want}: false alarms of ")


def test_two_criteria_and_their_words() -> None:
    both = held(0, 200, 3, 20, false_alarms=0.02, escapes=0.05)
    assert both.lines() == [
        "PASS: false alarms of 2 % or less: 0 of 200 good pictures rejected (95 % interval 0 % to 1.8 %).",
        "NOT ENOUGH DATA: escapes of 5 % or less: 3 of 20 defective pictures not rejected (95 % interval 3.2 % to 37.9 %); "
        f"{enough(3, 0.05)} defective pictures with no more than these 3 missed would pass.",
    ]
    one, none = held(1, 20, 0, 20, false_alarms=0.05, escapes=0.05).lines()
    assert one.endswith(f"; {enough(1, 0.05)} good pictures with no more than this one rejected would pass.")
    assert none.endswith("; 72 defective pictures, none of them missed, would pass.")
    assert (both.verdict, both.exit_code) == ("NOT ENOUGH DATA", 5)
    assert held(0, 200, 20, 20, false_alarms=0.02, escapes=0.05).exit_code == 6
    assert held(0, 200, 0, 100, false_alarms=0.02, escapes=0.05).exit_code == 0
    assert [each["verdict"] for each in both.as_dict()["criteria"]] == ["PASS", "NOT ENOUGH DATA"]


def test_nothing_measured_is_never_a_pass() -> None:
    for rates in ({}, {"false_alarm_rate": None}, {"false_alarm_rate": {"value": None, "low": None, "high": None}}):
        found = accept(rates, {"good": 0}, false_alarms=0.02)
        assert found is not None
        assert found.exit_code == 5
        assert "183 good pictures, none of them rejected, would pass" in found.lines()[0]
    assert accept({}, {}) is None


@pytest.mark.parametrize(("events", "accepted"), [(0, 0.02), (0, 0.05), (1, 0.05), (3, 0.1), (40, 0.3)])
def test_as_many_pictures_are_enough_and_one_fewer_is_not(events: int, accepted: float) -> None:
    n = enough(events, accepted)
    assert binomtest(events, n).proportion_ci(0.95, "exact").high <= accepted
    assert binomtest(events, n - 1).proportion_ci(0.95, "exact").high > accepted


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_share_that_is_none_is_refused_in_one_sentence(share: float) -> None:
    with pytest.raises(ConfigError, match="give a share between 0 and 100 %"):
        accept({}, {}, escapes=share)


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), ("2 %", 0.02), ("0.02", 0.02), ("99.5%", 0.995)])
def test_a_percent_sign_is_understood(text: str, share: float) -> None:
    assert Share().convert(text, None, None) == pytest.approx(share)


@pytest.mark.parametrize("text", ["2", "0", "100%", "0%", "-1%", "two", "%", "nan"])
def test_what_is_no_share_is_a_usage_error(text: str) -> None:
    result = CliRunner().invoke(main, ["report", "m", "--accept-escapes", text])
    assert result.exit_code == 2
    assert "such as 5%" in " ".join(result.stderr.split())


def test_the_commands_end_with_the_code_of_the_criteria(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "m")
    page = ["-o", str(tmp_path / "r.html")]

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(main, list(map(str, arguments)))

    plain = run("report", model, *page)
    assert plain.exit_code == 0
    nothing = run("report", model, *page, "--accept-escapes", "5%")
    assert nothing.exit_code == 5
    assert "NOT ENOUGH DATA: escapes of 5 % or less: not measured" in nothing.stdout
    measured = run("evaluate", model, washers, "--accept-false-alarms", "2%", "--accept-escapes", "0.05")
    lines = [line.strip() for line in measured.stdout.splitlines() if " or less: " in line]
    assert [line.split(": ")[1].split(" of ")[0] for line in lines] == ["false alarms", "escapes"]
    worst = max(EXIT_CODES[line.split(":")[0]] for line in lines)
    assert measured.exit_code == worst
    assert worst >= 5  # 6 good pictures show no rate of 2 %
    assert run("report", model, *page, "--accept-false-alarms", "2%", "--accept-escapes", "5%").exit_code == worst


def evaluation(alarms: int, good: int, missed: int, defective: int) -> dict[str, Any]:
    point = {
        "false_alarm_rate": intervals.rate(alarms, good)._asdict(),
        "escape_rate": intervals.rate(missed, defective)._asdict(),
    }
    return {"operating_point": point, "counts": {"good": good, "defective": defective}}


@given(st.integers(0, 40), st.integers(0, 300), st.floats(0.02, 0.5), st.floats(0.02, 0.5), st.sampled_from("fe!-"))
@settings(max_examples=150, deadline=None)
def test_a_yes_takes_both_criteria_and_both_passed(
    alarms: int, missed: int, false_alarms: float, escapes: float, which: str
) -> None:
    found = evaluation(alarms, 300, missed, 300)
    accepted = {"false_alarms": false_alarms if which in "f!" else None, "escapes": escapes if which in "e!" else None}
    acceptance = accept(found["operating_point"], found["counts"], **accepted)
    said = answer.answer(calibrate(range(99), 0.01), found, None, None, acceptance)
    assert said[0]["text"].startswith(("Yes", "No", "Not yet:"))
    yes = said[0]["tone"] == "good"
    assert yes == said[0]["text"].startswith("Yes")
    if yes:
        assert which == "!"
        assert acceptance is not None
        assert acceptance.verdict == "PASS"
        assert not [entry for entry in said if entry["tone"] == "warn"]
    if acceptance is None:
        assert answer.NO_CRITERIA in said[1]["text"]


def test_doubtful_calibration_pictures_hold_back_a_yes() -> None:
    found = evaluation(0, 300, 0, 300)
    acceptance = accept(found["operating_point"], found["counts"], false_alarms=0.02, escapes=0.05)
    calibration = calibrate(range(99), 0.01)
    assert answer.answer(calibration, found, None, None, acceptance)[0]["text"].startswith("Yes: ")
    doubtful = replace(calibration, doubts=("1 of 99 calibration pictures stands out",))
    said = answer.answer(doubtful, found, None, None, acceptance)
    assert said[0]["text"].startswith("Not yet: the acceptance criteria pass, but the red notes")
    assert {"tone": "warn", "text": "1 of 99 calibration pictures stands out."} in said


def test_a_criterion_for_one_rate_alone_is_no_yes() -> None:
    found = evaluation(0, 300, 0, 300)
    acceptance = accept(found["operating_point"], found["counts"], false_alarms=0.02)
    said = answer.answer(calibrate(range(99), 0.01), found, None, None, acceptance)
    assert said[0]["text"] == "Not yet: the criterion that was given passes, but there is none for escapes."


def test_a_measured_rate_above_the_expected_one_is_explained() -> None:
    """20 calibration pictures: 4.8 % expected, up to 13.9 %. Of 20 good pictures 3 are possible, 12 are not."""
    rate = calibrate(range(20), 0.05).rate_ng
    assert answer.against_expected(rate, intervals.rate(0, 20)._asdict(), 20) is None
    possible = answer.against_expected(rate, intervals.rate(3, 20)._asdict(), 20)
    assert possible is not None
    assert possible["tone"] == "open"
    assert "Chance can explain it: this model's own rate may be up to 13.9 %" in possible["text"]
    beyond = answer.against_expected(rate, intervals.rate(12, 20)._asdict(), 20)
    assert beyond is not None
    assert beyond["tone"] == "warn"
    assert "by more than chance explains" in beyond["text"]
    below_all = calibrate(range(20), 0.05).moved(threshold=-1.0).rate_ng
    assert answer.against_expected(below_all, intervals.rate(20, 20)._asdict(), 20) is None
