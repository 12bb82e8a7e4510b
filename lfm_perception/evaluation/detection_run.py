# SPDX-License-Identifier: Apache-2.0
"""One evaluation of detection: labelled images in, `detection.html` and `detection.json` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection_page import report, write_detection_page
from lfm_perception.evaluation.detection_trial import Trial, plain_variant, translated_variant
from lfm_perception.evaluation.labels import LabelledImage, LabelledSource
from lfm_perception.evaluation.languages import LANGUAGES, languages
from lfm_perception.evaluation.reports import provenance
from lfm_perception.evaluation.stress import STRESSES
from lfm_perception.media.page import drawing
from lfm_perception.media.staging import write_json
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm


class DetectionRun:
    """Evaluates a model on the labelled images of `source`.

    Args:
        names: Labels to ask for; all of the source by default.
        stress: Whether the model is also asked about degraded images.
        codes: Languages in which the model is also asked, or `all`.
        words: File with the labels in those languages.

    Raises:
        PerceptionError: A label or a language is unknown, or the source has no labels.
    """

    def __init__(
        self, settings: Settings, source: LabelledSource, names: Sequence[str] | None, *, stress: bool,
        codes: Sequence[str], words: Path | None, seed: int,
    ) -> None:  # fmt: skip
        self._settings, self._source, self._seed = settings, source, seed
        self._labels = labels = selected_labels(source.labels, names)
        self._stresses = list(STRESSES) if stress else []
        self._codes = list(LANGUAGES if codes == ["all"] else codes)
        translations = languages(self._codes, settings.dialect, labels, words)
        self._variants = [
            plain_variant(settings, labels),
            *(plain_variant(settings, labels, name, STRESSES[name]) for name in self._stresses),
            *(translated_variant(settings, labels, language) for language in translations),
        ]
        self._trial: Trial | None = None

    @property
    def done(self) -> int:
        """Number of images that the model was asked about."""
        return self._trial.images if self._trial else 0

    def measure(self, vlm: Vlm, images: Iterable[LabelledImage], on_progress: Callable[[], bool]) -> None:
        """Ask about every image, until `on_progress`, called after each, returns False.

        Raises:
            PerceptionError: An image cannot be read, or the model fails; the results until then are kept.
        """
        self._trial = Trial(vlm, self._settings, self._labels, self._variants, self._seed)
        for image in images:
            self._trial.run(image)
            if not on_progress():
                return

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the page and the figures, which are also returned."""
        assert self._trial is not None, "measure comes first"
        name, notes = self._source.name, list(self._source.notes)
        found = {
            **report(self._trial, self._labels, self._stresses, self._codes),
            "source": name,
            "notes": notes,
            "seed": self._seed,
            **provenance(self._settings),
        }
        write_json(folder / "detection.json", found)
        with drawing("the page"):
            write_detection_page(folder / "detection.html", found, self._trial)
        return found


def selected_labels(labels: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """The labels to ask for: those of `names`, or all. Raises PerceptionError for a name that is none."""
    selected = list(labels if names is None else names)
    for name in selected:
        if name not in labels:
            raise PerceptionError(f"no label is called {name!r}; there are: {', '.join(labels)}")
    if not selected:
        raise PerceptionError("there are no labels to ask for: every image is empty")
    return selected
