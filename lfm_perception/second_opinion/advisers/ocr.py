# SPDX-License-Identifier: Apache-2.0
"""The adviser `ocr`: the text in a crop, read by RapidOCR with the models of its wheel, without a network."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from lfm_perception.errors import PerceptionError
from lfm_perception.scene import Frame
from lfm_perception.second_opinion.advisers import register_adviser
from lfm_perception.second_opinion.advisers.process import ProcessAdviser
from lfm_perception.settings import SecondOpinionSettings

if TYPE_CHECKING:
    from lfm_perception.second_opinion.worker import Answering

MODELS = {"Det": "*_det_*.onnx", "Rec": "*_rec_*.onnx", "Cls": "*_cls_*.onnx"}
"""The models in RapidOCR's wheel: text detection, recognition, and upside-down text. Named explicitly, they
are read where they are; RapidOCR would download others."""


READ_SIDE, MAX_ENLARGED = 480, 4.0
"""Longer side to which smaller crops are enlarged, pixels, and by how much at most. RapidOCR itself enlarges
by the shorter side, to 736: it reads the demo world's box numbers no better, in three times the time, and is
slow on narrow crops."""


def answering(_: str) -> Answering:
    """Reads text, line by line from the top; the confidence is that of the worst line. The question is moot.

    Raises:
        PerceptionError: the package lacks a model.
    """
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    found = {part: sorted(folder.glob(pattern)) for part, pattern in MODELS.items()}
    if missing := [part for part, files in found.items() if not files]:
        raise PerceptionError(f"{folder} has no model for {', '.join(missing)}: install rapidocr 3.10")
    parameters: dict[str, Any] = {f"{part}.model_path": str(files[0]) for part, files in found.items()}
    parameters |= {
        "Global.log_level": "critical",
        "Det.limit_type": "max",
        "Det.limit_side_len": 960,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    }
    engine = rapidocr.RapidOCR(params=parameters)

    def answer(frame: Frame, question: str) -> tuple[str, float | None]:
        scale = max(1.0, min(READ_SIDE / max(frame.width, frame.height), MAX_ENLARGED))
        enlarged = cv2.resize(frame.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        result = engine(cv2.cvtColor(enlarged, cv2.COLOR_RGB2BGR))
        lines, scores = result.txts or (), result.scores or ()
        return "\n".join(lines), float(min(scores)) if scores else None

    return answer


def _open(settings: SecondOpinionSettings) -> ProcessAdviser:
    if missing := [name for name in ("rapidocr", "onnxruntime") if find_spec(name) is None]:
        raise PerceptionError(
            f"second_opinion.adviser ocr needs {' and '.join(missing)}: pip install 'lfm_perception[ocr]'"
        )
    return ProcessAdviser("ocr", "", f"ocr by rapidocr {version('rapidocr')}", settings.timeout)


register_adviser("ocr", _open)
