"""Every text of the web page, in English: templates and scripts hold none of their own."""

from __future__ import annotations

from typing import Any

from flawforge_runtime.rates import percent

# Everywhere
PRODUCT = "flawforge"
SKIP = "Skip to the content"
NAVIGATION = "Pages"
LIVE, HISTORY, REVIEW, MODELS = "Live", "History", "Review", "Model"
LOG_OUT = "Log out"
SIGNED_IN = "Signed in as {name}, {role}"
HIGHER = "A higher score is more anomalous."
SYMBOLS = {"OK": "✓", "REVIEW": "?", "NG": "✕", "good": "✓", "defect": "✕", "unsure": "?"}
VERDICTS = {"OK": "OK", "REVIEW": "REVIEW", "NG": "NG"}
MEANINGS = {
    "OK": "The part looks like the good parts.",
    "REVIEW": "A person must look at this part.",
    "NG": "Rejected: the part is unlike good parts.",
}
UNLIKE = (
    "Rejected: the picture is unlike every good picture. Possible causes: a large defect, another product, a wrong camera "
    "or light."
)
REVIEWS = {"good": "good", "defect": "defect", "unsure": "unsure"}
UNNAMED = "Result {id}"
NO_PICTURE = "The picture was not kept."
NO_SCRIPT = "This page needs JavaScript to send pictures and to follow the line. History and Model work without it."

# Login
LOGIN = "Log in"
LOGIN_HOW = "Enter your access token. The administrator of this service gave it to you."
TOKEN = "Access token"
LOGIN_WRONG = "This token is not known. Check it, or ask the administrator."

# Errors
ERROR = "That did not work"
ERROR_BACK = "Back to the live page"
NOT_FOUND = "There is no such page."

# Live
DROP = "Drop pictures here"
DROP_OR = "or"
CHOOSE = "Choose pictures"
PART_AND_STATION = "Part and station"
PART = "Part ID"
STATION = "Station"
MODEL = "Model"
FOLLOW = "Follow the line"
FOLLOWS = {"all": "every part", "rejects": "REVIEW and NG only", "none": "none"}
BACK = "Back to the line"
NOT_JUDGED = "NOT JUDGED"
NOT_JUDGED_SYMBOL = "!"
LATEST = "Latest results"
CONNECTING = "Connecting"
WATCH_MISSED = "Watched folder: {name} was not judged, so it is not OK ({time}): {why}"
NOTHING_YET = "No results yet"
NOTHING_YET_HOW = "Drop a picture of a part above. The verdict appears here."

# One result
RESULT = "Result"
PICTURE_OF = "Picture of {name}"
HEAT_OF = "Heat map of {name}"
HEAT = "Heat map"
HEAT_ENDS = ("Picture", "Heat map")
NO_HEAT = "No heat map: the model that judged this part is no longer served."
REGIONS = "Marked regions"
REGION_HEADS = ("No.", "Left, top", "Size", "Peak")
REGION_HINT = "Positions and sizes are in pixels of the picture."
NO_REGIONS = "No region is marked."
CHART = "The score among {n} good {of}"
CHART_THIS = "this part"
NO_CHART = "The model that judged this part is no longer served, so its good parts cannot be shown."
FACTS = "Details"
FACT_NAMES = {
    "time": "Judged",
    "part_id": "Part ID",
    "station": "Station",
    "picture": "File",
    "score": "Score",
    "limits": "Limits",
    "p_value": "p-value",
    "model": "Model",
    "source": "Source",
    "seconds": "Time taken",
    "size": "Picture size",
    "id": "Result",
}
SOURCES = {"http": "page or API", "watch": "watched folder", "inspect": "command line"}
SAMPLED = "Random check"
REVIEWED = "Reviewed"
NOT_REVIEWED = "Not reviewed"
REVIEWED_BY = "{who}, {time}"
REVIEW_NOTE = "Note: {note}"
REVIEW_PLACE = {1: "1 place of a defect is marked.", 2: "{count} places of a defect are marked."}
REVIEW_THIS = "Review this part"
REVIEW_AGAIN = "Change the review"

# History
FILTERS = "Filters"
VERDICT = "Verdict"
FROM = "From"
UNTIL = "Before"
NAMED = "Part ID or file contains"
FROM_BEFORE_UNTIL = "The time in From must be earlier than the time in Before."
DOWNLOAD = "Download as CSV"
ANY = "any"
REVIEW_STATE = "Review"
REVIEW_STATES = {
    "": "any",
    "yes": "reviewed",
    "no": "not reviewed",
    "good": "good",
    "defect": "defect",
    "unsure": "unsure",
    "against": "contradicts the verdict",
}
APPLY = "Apply"
CLEAR = "Clear filters"
FOUND_NONE = "No result matches these filters."
COUNT = "{count} results"
COUNT_ONE = "1 result"
MISSED = "{count} pictures not judged"
MISSED_ONE = "1 picture not judged"
MISSED_HINT = (
    "No verdict, so not OK; a later picture of the part may have one. Of the filters, time, part ID or file, station and "
    "model apply."
)
MISSED_MORE = "The newest {count} are shown. All: flawforge results export DB --not-judged -o FILE.csv"
UNNAMED_PICTURE = "picture without a name"
OLDER = "Older results"
NEWEST = "Newest results"
HISTORY_HEADS = {
    "verdict": "Verdict",
    "picture": "Picture",
    "time": "Time",
    "station": "Station",
    "model": "Model",
    "score": "Score",
    "review": "Review",
}
TIMES = "Times are local to the server (UTC{offset})."
RATES = "Rejects and false alarms over time"
RATE_SERIES = ("rejected (NG)", "rejected, reviewed as good")
RATE_PROMISE = "expected for good parts"
RATE_TABLE = "The same as a table"
RATE_HEADS = ("From", "Parts", "OK", "REVIEW", "NG", "NG share", "NG, reviewed as good", "OK, reviewed as defect")
RATE_STEPS = {"hour": "One point per hour", "day": "One point per day (UTC)"}
RATE_FILTERS = "Of the filters, only time, station and model apply to this chart."
NO_RATES = "There is nothing to draw yet."

# Review
QUEUE = "Review queue"
WAITING = "{count} waiting"
WAITING_MORE = "{count} or more waiting"
QUEUE_EMPTY = "Nothing is waiting for review"
QUEUE_EMPTY_HOW = "Parts judged REVIEW or NG appear here, and a random sample of the others."
QUESTION = "Is this part good?"
ANSWERS = {"good": ("Good", "G"), "defect": ("Defect", "D"), "unsure": ("Unsure", "U")}
SKIP_PART = ("Later", "S")
WHERE = "Where is the defect?"
WHERE_HOW = "Optional. Draw on the picture, then choose Defect."
TOOLS = {"box": ("Box", "B"), "brush": ("Brush", "P")}
ADD_BOX = ("Add a box", "A")
TAKE_REGIONS = ("Take the marked regions", "R")
UNDO = ("Undo", "Z")
NOTE = "Note"
KEYS = "Keyboard: the letter on each button. Move a box with the arrow keys, resize it with Shift and the arrow keys."
SAID = "Saved as {verdict}: {name}."
SAID_CHANGE = "Change"
CANVAS = "Picture to draw on"

# Model
PROMISE = "What to expect"
PROMISE_ALARMS = "Good parts rejected (NG)"
PROMISE_FLAGGED = "Good parts REVIEW or NG"
ON_AVERAGE = "on average"
UP_TO = "up to {bound} for this model ({confidence} confidence)"
LIMITS = "Limits"
ON_THE_LINE = "On the line"
LINE_DAYS = "Last {days} days"
LINE_COUNT = "{ng} of {count} parts rejected"
LINE_NOTHING = "No part was judged in the last {days} days."
LINE_SAMPLED_FEW = (
    "Of {n} good parts in the reviewed random sample so far, {k} were rejected. From {least} on, this page states the "
    "false-alarm rate on the line."
)
LINE_SAMPLED = "Of {n} good parts in the reviewed random sample, {k} were rejected: {share} (95 % interval {low} to {high})."
LINE_NOT_SAMPLED = (
    "No good part of the random sample has been reviewed yet, so the false-alarm rate on the line is not known."
)
CALIBRATION = "Scores of the {n} good {of} that set the limits"
PROOF = "The smallest synthetic defect that it finds"
PROOF_WHAT = (
    "Synthetic defects: from this size on, 9 of 10 are found, with 95 % confidence (a90/95). Where all were found but no "
    "size is given, more defects are needed to show 9 of 10."
)
PROOF_HEAD = "Kind"
PROOF_CONTRAST = "contrast {contrast}"
PROOF_CHARTS = "Probability of detection by size"
NO_PROOF = "This has not been measured. Run: flawforge pod MODEL GOOD"
DRIFT = "Last drift check"
DRIFT_HOW = "A check of pictures that somebody gave to flawforge drift. It does not follow the line."
NO_DRIFT = "No drift check is stored. Run: flawforge drift MODEL PATHS"
EVALUATION = "Tested on labelled parts"
NO_EVALUATION = "It has not been tested on labelled defects. Run: flawforge evaluate MODEL DATA"
EVALUATED = ("Good parts rejected", "Defects not rejected")
INTERVAL = "95 % interval {low} to {high}"
HARDEST = "The hardest good parts"
HARDEST_HOW = "The good parts with the highest scores. The next false alarms would look like these."
HARDEST_KEY = (
    "Each figure, from the top: the picture and its anomaly map; a close-up (the white frame), bare and with outlines; the "
    "close-up's map, on the scale of all pictures and on its own."
)
SHEET = "Good pictures that look least like the others"
NO_HARDEST = "No pictures are stored. Run: flawforge pod MODEL GOOD"
MODEL_FACTS = "Details"
MODEL_FACT_NAMES = {
    "method": "Method",
    "profile": "Profile",
    "model_id": "Model ID",
    "manifest": "Manifest SHA-256",
    "flawforge_version": "Made by flawforge",
    "since": "Loaded",
}
CHANGED = "The model's folder holds a different version from the one that is served."
RELOAD = "Load the folder again"
RELOADED = "The model was loaded again."
DAMAGED = "Some stored results cannot be read: {why}"

# What the scripts say
SCRIPT = {
    "judging": "Judging {name} ({done} of {count})",
    "done": "Done: {count} judged ({verdicts})",
    "not_judged": "{count} not judged",
    "held": "This part stays here. Newer parts: {count}, NG: {ng}.",
    "lost_since": "Connection lost at {time}: new parts are not shown.",
    "failed": "{name} was not judged, so it is not OK: {why}",
    "result": "{verdict}: {name}",
    "live": "Live",
    "lost": "Connection lost, trying again",
    "busy": "The service is busy, trying again in {seconds} s",
    "network": "The service does not answer.",
    "box": "Box {number}: left {x}, top {y}, {w} by {h} pixels. Arrow keys move it, Shift and arrow keys resize it.",
    "drawn": "Boxes: {boxes}, strokes: {strokes}",
    "not_saved": "Not saved: {why}",
    "again": "Not saved: {why} Choose your answer again to add it as the newest review.",
    "kept": "the strokes of the last review",
    "good_with_place": "A good part has no defect to mark. Undo the drawing, or choose Defect.",
    "saving": "Saving",
}


def name_of(verdict: Any) -> str:
    """What a person calls a part: its id, else the picture's file name, else the result's number."""
    return str(verdict.part_id or verdict.picture or UNNAMED.format(id=verdict.id))


def meaning(verdict: Any) -> str:
    """The verdict in one sentence."""
    return MEANINGS[verdict.verdict] if verdict.valid else UNLIKE


def chance(p_value: float, n: int) -> str:
    """A conformal p-value in (0, 1] in words; n: calibration pictures, 0 = not known."""
    if n and p_value <= 1.0 / (n + 1) + 1e-9:
        return f"None of the {n} good parts that set the limits scored this high."
    if p_value > 0.2:
        return f"{percent(p_value)} of good parts score this high or higher: an ordinary score."
    return f"About 1 in {1.0 / p_value:.0f} good parts scores this high or higher."


def limits(threshold: float, review_threshold: float | None) -> str:
    """Both limits of a score."""
    if review_threshold is None or review_threshold >= threshold:
        return f"NG above {threshold:.4g}"
    return f"REVIEW above {review_threshold:.4g}, NG above {threshold:.4g}"


def offset(seconds: float) -> str:
    """An offset from UTC as +01:00; 0 gives ""."""
    if not seconds:
        return ""
    minutes = round(abs(seconds) / 60)
    return f"{'+' if seconds > 0 else '−'}{minutes // 60:02d}:{minutes % 60:02d}"
