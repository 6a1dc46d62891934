"""Write docs/cli.md from the commands themselves. Run by `make docs`; a test compares the page with `page()`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from flawforge.cli import main
from flawforge.cli.app import leaves
from flawforge.cli.options import SECTIONS, Option
from flawforge.cli.output import EVERYWHERE

PAGE = Path(__file__).resolve().parent / "cli.md"

# Examples for each command; a test parses every line.
EXAMPLES = {
    "demo": ["flawforge demo", "flawforge demo -o tour --minutes 0.5"],
    "fit": [
        "flawforge fit parts/good -o bracket --minutes 10",
        "flawforge fit parts -o bracket --roi face.png --false-alarm 2% --holdout 'batch7*'",
        "flawforge fit parts -o bracket --steps 2000 --set batch=4",
        "flawforge fit parts -o bracket --minutes 10 --resume",
        "flawforge fit parts -o bracket --method isstad --init clamp",
        "flawforge fit parts -o bracket --defects reviewed",
        "flawforge fit parts -o bracket --dry-run",
    ],
    "calibrate": [
        "flawforge calibrate bracket new/good --false-alarm 0.02 --review 0.1",
        "flawforge calibrate bracket new/good --false-alarm 0.05 --confidence 0.95 --min-area 0.2 --scale 0.05",
    ],
    "recalibrate": [
        "flawforge recalibrate bracket --reviews results.db",
        "flawforge recalibrate bracket --reviews postgresql://flawforge@db/line --files /srv/kept --station 'line 1'",
    ],
    "reviews export": [
        "flawforge reviews export results.db -o reviewed",
        "flawforge reviews export results.db -o defects --marked --model bracket",
    ],
    "inspect": [
        "flawforge inspect bracket today/*.png > today.csv",
        "flawforge inspect bracket today -o judged --overlays",
        "flawforge inspect bracket today -o judged --csv-dialect excel --copy-ng rejects --fail-on ng",
        "flawforge inspect bracket-onnx - --backend onnx",
        "flawforge inspect bracket --watch camera",
        "flawforge inspect bracket today --db results.db --station 'press 3'",
    ],
    "evaluate": [
        "flawforge evaluate bracket parts --json bracket.json",
        "flawforge evaluate bracket parts --accept-false-alarms 2% --accept-escapes 5%",
    ],
    "pod": [
        "flawforge pod bracket parts --json pod.json",
        "flawforge pod bracket parts --defects reviewed",
        "flawforge pod bracket new/good --kind scratch --contrast 0.2 --sizes 0.2 5 --scale 0.05",
    ],
    "export": [
        "flawforge export bracket -o bracket-onnx --to onnx",
        "flawforge export bracket -o bracket-int8 --to openvino --int8 --good new/good",
    ],
    "serve": [
        "flawforge serve bracket-onnx",
        "flawforge serve bracket-onnx washer=washer-openvino --db results.db --watch camera --station 'press 3'",
        "flawforge serve bracket-onnx --host 0.0.0.0 --token-file tokens.txt --db postgresql://line@db/line --files kept",
    ],
    "results export": ["flawforge results export results.db -o results.csv --since 2026-11-01"],
    "results prune": ["flawforge results prune results.db --older-than 90 --max-gb 20"],
    "results upgrade": ["flawforge results upgrade results.db"],
    "drift": ["flawforge drift bracket today --alarm 0.1% --fail-on drift"],
    "bench": ["flawforge bench bracket-onnx parts/test/good --json speed.json"],
    "report": [
        "flawforge report bracket -o bracket.html",
        "flawforge report bracket --title Bracket --note 'Line 3' --accept-false-alarms 2% --accept-escapes 5%",
    ],
    "forge": ["flawforge forge parts/good -o forged --forger perlin --forger scratch --count 8"],
    "methods": ["flawforge methods"],
    "forgers": ["flawforge forgers"],
    "doctor": ["flawforge doctor"],
}

TOP = """# Command line

*Written by `make docs` from the commands themselves; do not edit by hand.*

A higher score is more anomalous. No command needs a network. `-h` or `--help` explains each command.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | an error, stated in one sentence on standard error; also where a picture could not be judged |
| 2 | an invalid option or argument |
| 3 | `inspect --fail-on ng`: a picture was judged NG (`--fail-on review`: NG or REVIEW) |
| 4 | `drift --fail-on drift`: the check alarms |
| 5 | `evaluate` or `report` with acceptance criteria: not enough data |
| 6 | `evaluate` or `report` with acceptance criteria: a criterion is not met |

A share can be given as a fraction or as a percentage: `0.05` or `5%`. The result goes to standard output; progress,
warnings, where a result was saved and the next command go to standard error. A file that is named for a result may be a
pipe or a device. A file that a model folder consists of is refused.

`eval "$(_FLAWFORGE_COMPLETE=bash_source flawforge)"` completes commands, options, methods and forgers in bash.

Every command takes these options:

| option | meaning |
|---|---|
OUTPUT
`-h` shows the help of a command.

DATA is one of these:

- A folder in MVTec layout: `train/good`, `test/<kind>`, `ground_truth/<kind>`. `fit` reads `train/good` only. The mask of
  `test/<kind>/7.png` is in `ground_truth/<kind>` or beside the picture. It is one of `7_mask.png`, `7.png`, `7_gt.png`,
  `7_label.png` or `7_seg.png`, in any supported format, a folder `7` with several masks, or `7.json` (LabelMe). A COCO file
  can hold the masks of all pictures.
- A plain folder of good pictures: `good`, `ok` or the folder itself.
- A CSV with the column `image_path` and optionally `label` (0 good, 1 defective), `kind` (of the defect), `split` (train,
  calibration, test), `mask_path`, and `group` (the part's number: pictures of one part stay together). Relative paths
  start at the folder of the CSV. Other columns mean nothing; without `label` they are refused.
"""


def page() -> str:
    """The whole page as Markdown."""
    context = click.Context(main, info_name="flawforge")
    output = "".join(f"| {', '.join(f'`{name}`' for name in names)} | {how['help']} |\n" for names, how in EVERYWHERE)
    parts = [TOP.replace("OUTPUT\n", output), "| command | what it does |\n|---|---|\n" + "".join(_contents())]
    parts += ["\n".join(_command(context, *each)) for each in leaves()]
    return "\n".join(parts)


def _contents() -> Iterator[str]:
    for name, command in leaves():
        yield f"| [`{name}`](#{name.replace(' ', '-')}) | {command.get_short_help_str(limit=200)} |\n"


def _command(parent: click.Context, name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n\n    flawforge {name} {usage}\n"
    yield f"{_text(command.help or '')}\n"
    for section in SECTIONS:
        options = [each for each in command.params if isinstance(each, Option) and each.section == section]
        options = [each for each in options if not each.hidden]
        if section == "Output" or not options:
            continue
        yield f"**{section}**\n\n| option | meaning | default |\n|---|---|---|"
        yield from (_option(option, context) for option in options)
        yield ""
    yield "And " + ", ".join(f"`{name}`" for names, _ in EVERYWHERE for name in names) + "."
    yield "\n```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n"


def _text(text: str) -> str:
    return inspect.cleandoc(text)


def _option(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    words, _, stated = (option.help or "").partition(" [default: ")
    default = stated.rstrip("]") or _default(option)
    if option.multiple:
        words += " (can be given several times)" if "several times" not in words else ""
    return f"| {names}{_cell(value)} | {_cell(words)} | {_cell(default)} |"


def _default(option: click.Option) -> str:
    value: Any = option.default
    shown = option.show_default and isinstance(value, str | int | float | Path) and not isinstance(value, bool)
    return f"`{value}`" if shown else ("required" if option.required else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
