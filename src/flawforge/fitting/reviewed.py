"""New thresholds from reviewed parts: a fair sample of them only, see `store.fair`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flawforge.fitting.thresholds import recalibrate
from flawforge.store.fair import FairSample, fair_sample
from flawforge.store.kept import kept_path, sha256_of
from flawforge.store.opening import Store, open_store
from flawforge.store.verdicts import Filter
from flawforge.types import DataError
from flawforge_runtime import bundle, calibrate


def recalibrate_from_reviews(
    folder: Path,
    db: str | Path,
    false_alarm: float | None = None,
    review: float | None = None,
    *,
    files: str | Path | None = None,
    served: str = "",
    station: str = "",
    progress: Callable[[int, int], None] = lambda done, of: None,
    **how: Any,
) -> tuple[calibrate.Calibration, list[str]]:
    """New thresholds for a model from the good parts that were queued for review by chance; else as `recalibrate`.

    db       the result store, as `open_store` takes it; files: its folder of kept pictures, where it has another
    served   the name under which a model was served; "" = the results of this very model, by its id
    station  of these results; "" = any
    how      as `recalibrate` takes it
    The model judges the kept pictures anew. Raises DataError where the reviews are no fair sample, or a picture of it is not
    kept as it was judged; and as `recalibrate`.
    """
    model_id = "" if served else bundle.read(folder).model_id
    with open_store(db, files, create=False) as store, tempfile.TemporaryDirectory(prefix="flawforge-reviewed-") as link:
        sample = fair_sample(store, Filter(model=served, model_id=model_id, station=station))
        _linked(store, sample, Path(link) / "good")
        calibration, notes = recalibrate(
            folder, Path(link) / "good", false_alarm, review, source="--reviews DB", progress=progress, **how
        )
    return calibration, [*sample.lines(), *notes]


def _linked(store: Store, sample: FairSample, folder: Path) -> None:
    """Links to the kept pictures, named by the results' numbers, so that neighbours in name are neighbours in time.

    Raises DataError where one is not there or has other bytes: without it the sample were no longer fair.
    """
    folder.mkdir()
    for verdict in sample.good:
        path = kept_path(store.files, verdict.kept)
        if path is None or sha256_of(path.read_bytes()) != verdict.sha256:
            raise DataError(
                f"The picture of result {verdict.id} is not kept as it was judged, and without it the sample is not fair; "
                "give the folder of kept pictures with --files, or serve with --keep all."
            )
        (folder / f"{verdict.id:012d}{path.suffix}").symlink_to(path.resolve())
