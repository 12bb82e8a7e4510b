"""One evaluation of detection: labelled images in, `detection.html` and `detection.json` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection_page import report, write_detection_page
from lfm_perception.evaluation.detection_trial import Trial, plainly, stressed, translated
from lfm_perception.evaluation.labels import LabelledSource
from lfm_perception.evaluation.reports import page_facts, provenance
from lfm_perception.evaluation.stress import STRESSES
from lfm_perception.evaluation.wordings import LANGUAGES, languages
from lfm_perception.media.staging import write_json
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm


@dataclass(frozen=True, slots=True)
class DetectionPlan:
    """What is asked: `names` selects labels (None: all), `images` limits the images, `stress` adds degraded
    images, `languages` (codes, or `all`) adds translated questions with the labels of the file `words`.
    """

    names: Sequence[str] | None = None
    images: int | None = None
    stress: bool = False
    languages: Sequence[str] = ()
    words: Path | None = None
    seed: int = 0


class DetectionRun:
    """Evaluates a model on the labelled images of `source`.

    Raises:
        PerceptionError: A selected label does not exist, or there are none; a language is unknown.
    """

    def __init__(self, settings: Settings, source: LabelledSource, plan: DetectionPlan) -> None:
        self._settings, self._source, self._plan = settings, source, plan
        self._labels = _selected(source.labels, plan.names)
        self._codes = list(LANGUAGES) if list(plan.languages) == ["all"] else list(plan.languages)
        translations = languages(self._codes, settings.dialect, self._labels, plan.words)
        self._stresses = list(STRESSES) if plan.stress else []
        self._ways = [
            plainly(settings, self._labels),
            *(stressed(settings, self._labels, name, STRESSES[name]) for name in self._stresses),
            *(translated(settings, self._labels, language) for language in translations),
        ]
        self._trial: Trial | None = None

    @property
    def total(self) -> int:
        """Number of images that the plan asks about."""
        return min(self._source.count, self._plan.images or self._source.count)

    @property
    def shown(self) -> int:
        """Number of images that the model was asked about."""
        return self._trial.shown if self._trial else 0

    def measure(self, vlm: Vlm, on_progress: Callable[[], bool]) -> None:
        """Ask about every image, until `on_progress`, called after each, returns False.

        Raises:
            PerceptionError: An image cannot be read, or the model fails; the results until then are kept.
        """
        self._trial = Trial(vlm, self._settings, self._labels, self._ways, self._plan.seed)
        for picture in islice(self._source.pictures, self._plan.images):
            self._trial.show(picture)
            if not on_progress():
                return

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the page and the figures, which are returned too."""
        assert self._trial is not None, "measure comes first"
        found = {
            **report(self._trial, self._labels, self._stresses, self._codes),
            "source": self._source.name,
            "notes": list(self._source.notes),
            "seed": self._plan.seed,
            **provenance(self._settings),
        }
        facts = {"source": self._source.name, "notes": "; ".join(self._source.notes) or "none"}
        write_json(folder / "detection.json", found)
        write_detection_page(
            folder / "detection.html", found, self._trial, {**facts, **page_facts(self._settings)}
        )
        return found


def _selected(labels: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """The labels to ask for, in the order of `names`."""
    selected = list(labels if names is None else names)
    for name in selected:
        if name not in labels:
            raise PerceptionError(f"no label is called {name!r}; there are: {', '.join(labels)}")
    if not selected:
        raise PerceptionError("there are no labels to ask for: every image is empty")
    return selected
