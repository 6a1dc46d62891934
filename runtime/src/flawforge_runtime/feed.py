"""Pictures as a command line names them: files, folders, a pipe, a folder that a camera drops files into. And their rows.

One bad file never stops a feed: it comes out as its path and one sentence. What is left out is said.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flawforge_runtime.decode import FORMATS, SUFFIXES
from flawforge_runtime.types import OK_BY_RULE, CalibrationError, ConfigError, DataError, Decision, FlawforgeError

POLL = 0.2  # seconds between two looks at a watched folder
SETTLED = 2  # looks in a row at which a file must have the same size and time, so that half a file is not judged
MASKS, TESTED = "ground_truth", "test"  # folders of a data set: masks, and the pictures that they are of
ODD = (-1, 0, 0)  # State of what is no regular file
DRAWN = frozenset({"overlays", "thumbnails"})  # folders of pictures that `flawforge inspect -o` draws
ROWS = re.compile(rb'(\xef\xbb\xbf)?(time[,;]image_path[,;]verdict[,;]|\{"image_path": )')  # how its rows begin
# Of a watched file: bytes, the time of its content and that of its entry (inode), in nanoseconds. Uncompressed pictures all
# have one size, and cameras, copies and FAT write whole seconds: the entry's time alone tells the next part under one name.
State = tuple[int, int, int]
FIELDS = (
    "image_path",
    "pred_score",
    "score_normalised",
    "p_value",
    "verdict",
    "pred_label",
    "threshold",
    "review_threshold",
    "regions",
    "region_count",
    "largest_area",
    "area_unit",
    "model_id",
    "time",
    "seconds",
    "valid",
    "notes",
)

Say = Callable[[str], None]


def inspect_paths(inspector: Callable[[Path], Decision], paths: Iterable[Path]) -> Iterator[Decision | tuple[Path, str]]:
    """Judge picture after picture; one that cannot be judged, for whatever reason, yields (path, sentence).

    Raises CalibrationError where the model has no threshold yet, and what `paths` itself raises.
    """
    for path in paths:
        result: Decision | tuple[Path, str]
        try:
            result = inspector(path)
        except CalibrationError:
            raise
        except FlawforgeError as error:
            result = path, str(error)
        except MemoryError:
            result = path, f"{path} takes more memory than there is; give a smaller picture."
        except Exception as error:  # of a library, or ours: it costs this picture, and no other
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")[:300]
            result = path, f"{path} could not be judged ({reason}); check picture and model."
        yield result  # outside of the except: an exception that is held keeps its arrays


def row(decision: Decision, model_id: str) -> dict[str, Any]:
    """The result fields (FIELDS) that other people's scripts rely on, JSON-able. A higher score is more anomalous.

    score_normalised  the score on one scale for all models: 0.5 at the NG threshold, see `Calibration.normalised`
    largest_area      of a marked region, in `area_unit`: px, or mm2 where the model knows the width of a pixel
    time              when it was judged, local time with its offset from UTC
    """
    return {
        "image_path": decision.image_path,
        "pred_score": decision.pred_score,
        "score_normalised": decision.score_normalised,
        "p_value": decision.p_value,
        "verdict": decision.verdict,
        "pred_label": decision.pred_label,
        "threshold": decision.threshold,
        "review_threshold": decision.review_threshold,
        "regions": [dataclasses.asdict(region) for region in decision.regions],
        "region_count": len(decision.regions),
        "largest_area": decision.largest_area,
        "area_unit": "px" if decision.mm_per_pixel is None else "mm2",
        "model_id": model_id,
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(decision.seconds, 4),
        "valid": decision.valid,
        "notes": list(decision.notes),
    }


def row_of(result: Decision | tuple[Path, str], model_id: str) -> dict[str, Any]:
    """The row of what `inspect_paths` gives: as `row`, or {"image_path", "error"} for a picture that was not judged.

    A figure that is not finite is an error: JSON has no word for it, and no threshold holds against it.
    """
    if not isinstance(result, Decision):
        return {"image_path": str(result[0]), "error": result[1]}
    figures = (result.pred_score, result.p_value, result.threshold, *(region.peak for region in result.regions))
    if not all(map(math.isfinite, figures)):
        error = f"{result.image_path} was given a score that is not finite; check picture and model."
        return {"image_path": result.image_path, "error": error}
    return row(result, model_id)


@dataclass
class Tally:
    """What came out so far.

    strange  pictures that were like no good one; ruled: OK by rule alone, as a rule on regions overruled their score
    skipped  pictures that were not judged
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    strange: int = 0
    ruled: int = 0
    skipped: int = 0

    @property
    def count(self) -> int:
        """Rows, with those of pictures that were not judged."""
        return self.verdicts.total() + self.skipped

    def add(self, each: Mapping[str, Any]) -> None:
        """Count a row as `row_of` gives it."""
        if "error" in each:
            self.skipped += 1
        else:
            self.verdicts[each["verdict"]] += 1
            self.strange += not each["valid"]
            self.ruled += any(OK_BY_RULE in note for note in each.get("notes") or ())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        verdicts = {verdict: self.verdicts[verdict] for verdict in ("OK", "REVIEW", "NG")}
        told = {"not_like_any_good": self.strange, "ok_by_rule": self.ruled, "not_judged": self.skipped}
        return {"count": self.count, **verdicts, **told}

    def __str__(self) -> str:
        ruled = f" ({self.ruled} by rule, against the score)" if self.ruled else ""
        strange = f" ({self.strange} not like any good picture)" if self.strange else ""
        counts = f"{self.verdicts['OK']} OK{ruled}, {self.verdicts['REVIEW']} REVIEW, {self.verdicts['NG']} NG{strange}"
        missed = f", {self.skipped} could not be judged" if self.skipped else ""
        return f"{self.verdicts.total()} judged: {counts}{missed}"


@dataclass
class Source:
    """The pictures that a command line names, as an iterable of paths.

    paths     files as they are given, folders as every picture in and below them, - as `stdin`
    watch     then each new picture in this folder, without an end
    stdin     one path a line; None = - is a file like others
    say       is told in one sentence each what is left out
    missed    folders that could not be read, or that held no picture
    watching  True from the first look at `watch`
    Iterating raises DataError where there is no picture at all.
    """

    paths: Iterable[Path]
    watch: Path | None = None
    stdin: TextIO | None = None
    say: Say = lambda sentence: None
    missed: int = 0
    watching: bool = False

    def __post_init__(self) -> None:
        self.paths = tuple(self.paths)

    @property
    def live(self) -> bool:
        """Whether pictures come as they are made, so that nobody knows how many there will be."""
        return self.watch is not None or (self.stdin is not None and Path("-") in tuple(self.paths))

    def __iter__(self) -> Iterator[Path]:
        return self._live() if self.live else iter(self._all())

    def _all(self) -> list[Path]:
        searches = [search(path, masks=False) if _is_folder(path) else Found(path, (path,)) for path in self.paths]
        pictures = [path for result in searches for path in result.pictures]
        if not pictures:
            sentences = [sentence for result in searches for sentence in (*result.notes(), *result.missed())]
            raise DataError(" ".join(sentences) or "No picture was given; give pictures or folders of pictures.")
        for result in searches:
            self._tell(result)
        return pictures

    def _live(self) -> Iterator[Path]:
        count = 0
        for path in self.paths:
            pictures: Iterable[Path] = (path,)
            if self.stdin is not None and str(path) == "-":
                pictures = piped(self.stdin)
            elif _is_folder(path):
                result = search(path, masks=False)
                self._tell(result)
                pictures = result.pictures
            for picture in pictures:
                count += 1
                yield picture
        if self.watch is not None:
            self.watching = True
            yield from watched(self.watch, say=self.say)
        elif not count:
            raise DataError("No picture came on standard input or in the given paths; give one path a line.")

    def _tell(self, found: Found) -> None:
        for sentence in (*found.notes(), *found.missed()):
            self.say(sentence)
        self.missed += len(found.missed())


@dataclass(frozen=True)
class Found:
    """What lies in and below a folder.

    pictures  by name, sorted
    others    (ending, how many) of the other files, the most first
    links     folders that are links; they are not followed, as they may lead back
    closed    (folder, why) of those that could not be read
    hidden    hidden files and folders, which are left aside
    masks     folders of masks, which are left aside
    drawn     folders of pictures that `inspect` drew, which are left aside
    """

    folder: Path
    pictures: tuple[Path, ...] = ()
    others: tuple[tuple[str, int], ...] = ()
    links: tuple[Path, ...] = ()
    closed: tuple[tuple[Path, str], ...] = ()
    hidden: int = 0
    masks: tuple[Path, ...] = ()
    drawn: tuple[Path, ...] = ()

    def notes(self) -> list[str]:
        """Sentences on what was left aside and may well be meant so."""
        notes = []
        if self.links:
            names = ", ".join(map(str, self.links[:5])) + (", ..." if len(self.links) > 5 else "")
            notes.append(
                f"Linked folders are not followed, {len(self.links)} in {self.folder}: {names}; give their own paths."
            )
        if self.masks:
            names = ", ".join(map(str, self.masks))
            notes.append(
                f"Left out, as masks of the pictures in {TESTED} beside it: {names}; give its own path to judge it."
            )
        if self.drawn:
            names = ", ".join(map(str, self.drawn[:4])) + (", ..." if len(self.drawn) > 4 else "")
            notes.append(f"Left out, as drawn by an earlier inspect: {names}; give its own path to judge it.")
        if self.others and self.pictures:
            notes.append(f"Left aside in {self.folder}, as by name no {FORMATS}: {self._files()}.")
        return notes

    def missed(self) -> list[str]:
        """Sentences on pictures that somebody may expect, and that are not there."""
        missed = [f"{folder} cannot be read ({why}); pictures in it are left out." for folder, why in self.closed]
        if not self.pictures and not any(folder == self.folder for folder, _ in self.closed):
            what = "it is empty; where a disk or share belongs there, check that it is mounted"
            if self.others:
                what = f"{self._files()}; give {FORMATS}"
            elif self.hidden or self.links:
                what = "only hidden files or linked folders; give the paths of what is meant"
            missed.append(f"No picture in {self.folder}: {what}.")
        return missed

    def _files(self) -> str:
        count = sum(number for _, number in self.others)
        kinds = [f"{number} {ending}" for ending, number in self.others]
        if len(kinds) == 1:
            return f"{count} files, all {self.others[0][0]}" if count > 1 else f"1 file ({self.others[0][0]})"
        return f"{count} files ({', '.join(kinds[:5])}{', ...' if len(kinds) > 5 else ''})"


def search(folder: Path, *, masks: bool = True) -> Found:
    """Look through a folder and all below it. Hidden files and folders are left aside, linked folders not followed.

    masks  False: folders MASKS beside a folder TESTED, as data sets have them, are left aside, and folders DRAWN beside
           the rows of an earlier inspect
    """
    pictures: list[Path] = []
    others: Counter[str] = Counter()
    links: list[Path] = []
    truths: list[Path] = []
    drawn: list[Path] = []
    closed: list[tuple[Path, str]] = []
    hidden = 0

    def note(error: OSError) -> None:
        closed.append((Path(error.filename or folder), error.strerror or type(error).__name__))

    for place, folders, files in os.walk(folder, onerror=note):
        visible = [name for name in folders if not name.startswith(".")]
        links += [Path(place, name) for name in visible if _is(Path.is_symlink, Path(place, name))]
        hidden += len(folders) - len(visible) + sum(name.startswith(".") for name in files)
        if not masks and {MASKS, TESTED} <= set(visible):
            visible.remove(MASKS)
            truths.append(Path(place, MASKS))
        if not masks and DRAWN & set(visible) and _has_rows(place):
            drawn += [Path(place, name) for name in visible if name in DRAWN]
            visible = [name for name in visible if name not in DRAWN]
        folders[:] = visible
        for name in files:
            if name.startswith("."):
                continue
            ending = Path(name).suffix.lower()
            if ending in SUFFIXES:
                pictures.append(Path(place, name))
            else:
                others[ending or "without an ending"] += 1
    return Found(
        folder,
        tuple(sorted(pictures)),
        tuple(sorted(others.items(), key=lambda each: (-each[1], each[0]))),
        tuple(sorted(links)),
        tuple(closed),
        hidden,
        tuple(sorted(truths)),
        tuple(sorted(drawn)),
    )


def _has_rows(place: str) -> bool:
    """Whether `inspect -o` wrote to this folder: the rows that it always writes begin as no others do."""
    for name in ("results.csv", "results.jsonl"):
        with suppress(OSError), Path(place, name).open("rb") as file:
            start = file.read(64)
            if ROWS.match(start) or (not start and Path(place, "unfinished.txt").is_file()):
                return True
    return False


def _is_folder(path: Path) -> bool:
    return _is(Path.is_dir, path)


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """False where the system cannot say: a name that is too long, a closed folder above. Who opens the path hears why."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def piped(stream: TextIO) -> Iterator[Path]:
    """One path a line, as soon as the line is there; empty lines are left out, bytes that are not UTF-8 are kept."""
    if isinstance(stream, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):  # it was read from before: it stays as it is
            stream.reconfigure(errors="surrogateescape")
    for line in iter(stream.readline, ""):
        name = line.rstrip("\r\n")
        if name:
            yield Path(name)


def check_watch(folder: Path, outputs: Mapping[str, Path | None] | None = None) -> None:
    """Raises DataError where there is no such folder to watch, ConfigError where an output goes there too.

    outputs  {option: folder}; one below the watched folder is not seen by the watch
    """
    if not _is_folder(folder):
        raise DataError(f"--watch was given as {folder}, which is no folder; make it first, or give another.")
    for option, output in (outputs or {}).items():
        if output is not None and output.resolve() == folder.resolve():
            raise ConfigError(
                f"{option} {output} is the folder that --watch watches, where its pictures would be judged in turn; give "
                "another folder."
            )


def watched(
    folder: Path,
    *,
    poll: float = POLL,
    go_on: Callable[[], bool] = lambda: True,
    old: bool = True,
    say: Say = lambda sentence: None,
) -> Iterator[Path]:
    """Every picture that comes to lie in `folder` (not below it), once, in the order of time, when it no longer grows.

    A file that is written anew under the same name counts again, also with the same size and time; so does one whose
    permissions change. What is no regular file comes once too, so that somebody says that it cannot be judged; folders are
    left aside. Hidden files are left aside: cameras write under one and rename. Where the folder goes away (unmounted,
    removed), the watch waits until it is back, and judges nothing twice that lies there unchanged.

    poll   seconds between two looks
    go_on  asked before each look; False ends the watch
    old    pictures that lie there already come first
    say    is told once when the folder is gone, and once when it is back
    Raises DataError where there is no such folder at the start.
    """
    check_watch(folder)
    look = _Look(folder, say)
    seen: dict[Path, State | None] = {} if old else look() or {}
    waiting: dict[Path, tuple[State, int]] = {}
    while go_on():
        lying = look()
        if lying is None:
            waiting = {}
            time.sleep(poll)
            continue
        if lying:  # an empty look forgets nothing: a folder is empty while its disk is away
            seen = {path: state for path, state in seen.items() if path in lying}
        ready: dict[Path, State] = {}
        for path, state in lying.items():
            if state is None or seen.get(path) == state:
                continue
            before, looks = waiting.get(path, (state, 0))
            waiting[path] = (state, looks + 1 if state == before else 1)
            if waiting[path][1] >= SETTLED:
                ready[path] = state
        waiting = {path: each for path, each in waiting.items() if path in lying and path not in ready}
        for path in sorted(ready, key=lambda path: (ready[path][1], path.name)):
            seen[path] = ready[path]
            yield path
        if not ready:
            time.sleep(poll)


class _Look:
    """Looks at a watched folder, and says once when it is gone and once when it is back."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say, self.gone = folder, say, False
        self.device: int | None = None

    def __call__(self) -> dict[Path, State | None] | None:
        """As `_lying`; None while the folder is gone."""
        try:
            device, lying = self.folder.stat().st_dev, _lying(self.folder)
            why = "" if lying or device == (self.device or device) else "its disk is not mounted"
        except OSError as error:
            why = error.strerror or type(error).__name__
        if bool(why) != self.gone:
            self.gone = bool(why)
            lost = f"{self.folder} is gone ({why}); waiting for it."
            self.say(lost if why else f"{self.folder} is there again.")
        if why:
            return None
        self.device = device
        return lying


def _state(stat: os.stat_result) -> State:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _lying(folder: Path) -> dict[Path, State | None]:
    """The state of each picture in `folder`.

    None where the name is listed but the file cannot be reached: it was removed meanwhile, or the whole folder is going
    away, and then the file is still known when the folder comes back.
    """
    states: dict[Path, State | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
                continue
            try:
                stat = entry.stat()
                if not entry.is_dir():
                    states[Path(entry.path)] = _state(stat) if entry.is_file() else ODD
            except OSError:
                states[Path(entry.path)] = None
    return states
