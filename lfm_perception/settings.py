"""Every knob of the package, once: type, default, range, unit and words.

YAML files, command-line options, ROS parameters, `config/perception.yaml` and `docs/settings.md` all
derive from this list. A `Settings` value that exists is valid: each field is in its range and the
fields do not contradict each other. Defaults for image and sampling are the model card's.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
import sys
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import TILE_TOKENS
from lfm_perception.questions import CAPTION, DIALECTS, SPECIAL_TOKEN, Dialect

Value = bool | int | float | str | tuple[str, ...]
T = TypeVar("T", bool, int, float, str, tuple[str, ...])

ONE_OBJECT_TOKENS = 32
"""Answer tokens that hold one object in either built-in dialect (three objects take 72 to 89)."""


ANY_NODE = "/**"
ROS_PARAMETERS = "ros__parameters"
"""How a ROS parameter file begins that is for a node in any namespace."""

PER_LABEL = ("min_iou", "min_hits", "max_consecutive_misses", "max_age", "process_noise")
"""Settings of the tracker that `tracker.per_label` may change."""

LOADED = "the model is loaded with it"
STARTED = "the node has started with it"
SUBSCRIBED = "the image subscription is made with it"


def _knob(
    default: T,
    words: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    fixed: str = "",
) -> T:
    about = {"words": words, "unit": unit, "low": low, "high": high, "choices": choices, "fixed": fixed}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The language model."""

    path: str = _knob("", "GGUF file of the language model; empty: the demo model that ships", fixed=LOADED)
    sha256: str = _knob(
        "", "SHA-256 the file must have, 64 hexadecimal digits; empty: not checked", fixed=LOADED
    )


@dataclass(frozen=True, slots=True)
class MmprojSettings:
    """The vision tower and projector that belong to the language model."""

    path: str = _knob(
        "", "GGUF file of the vision tower and projector; empty: the demo model's", fixed=LOADED
    )
    sha256: str = _knob(
        "", "SHA-256 the file must have, 64 hexadecimal digits; empty: not checked", fixed=LOADED
    )


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A fine-tuned change of the language model's weights (LoRA), applied when it is loaded."""

    path: str = _knob("", "GGUF file of the adapter; empty: none", fixed=LOADED)
    sha256: str = _knob(
        "", "SHA-256 the file must have, 64 hexadecimal digits; empty: not checked", fixed=LOADED
    )
    scale: float = _knob(1.0, "how strongly it is applied; 0: not at all", low=0.0, high=10.0, fixed=LOADED)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Who answers, and how llama.cpp runs."""

    backend: str = _knob(
        "llama",
        "who answers: llama.cpp here, a server that speaks OpenAI's protocol, or answers recorded before",
        choices=("llama", "openai", "recorded"),
        fixed=LOADED,
    )
    n_gpu_layers: int = _knob(0, "layers on the GPU; 0: CPU only, -1: all", low=-1, high=999, fixed=LOADED)
    n_ctx: int = _knob(
        4096, "context: image, prompt and answer together", unit="tokens", low=256, high=32768, fixed=LOADED
    )
    n_threads: int = _knob(0, "CPU threads; 0: chosen from the cores", low=0, high=256, fixed=LOADED)
    n_batch: int = _knob(
        512,
        "largest batch in which pictures and questions are read",
        unit="tokens",
        low=32,
        high=4096,
        fixed=LOADED,
    )
    flash_attn: str = _knob("auto", "flash attention", choices=("auto", "on", "off"), fixed=LOADED)
    isolation: str = _knob(
        "process",
        "where the model runs: in a process of its own, started again when it is lost, or in a thread",
        choices=("process", "thread"),
        fixed=LOADED,
    )
    answer_timeout: float = _knob(
        30.0, "a process that owes an answer for longer is ended", unit="s", low=1.0, high=600.0, fixed=LOADED
    )


@dataclass(frozen=True, slots=True)
class OpenaiSettings:
    """The server that answers where engine.backend is openai: vLLM, SGLang, llama-server and the like."""

    url: str = _knob("http://127.0.0.1:8000/v1", "address of its protocol, as far as /v1", fixed=LOADED)
    model: str = _knob("", "name of the model on the server; empty: the first that it lists", fixed=LOADED)
    key_variable: str = _knob(
        "", "environment variable that holds the key; empty: none is sent", fixed=LOADED
    )
    ca_file: str = _knob(
        "", "PEM file of the authority that signed its certificate; empty: the system's", fixed=LOADED
    )
    timeout: float = _knob(
        10.0, "longest wait for an answer, where budget.latency leaves more", unit="s", low=0.01, high=600.0,
        fixed=LOADED,
    )  # fmt: skip
    retries: int = _knob(
        1, "further attempts at one answer, within the same time", low=0, high=10, fixed=LOADED
    )
    jpeg_quality: int = _knob(
        95, "quality of the picture that is sent; 0: PNG, without loss", low=0, high=100, fixed=LOADED
    )
    constraint: str = _knob(
        "auto",
        "how the server is held to the dialect's JSON; auto: the first of the others that it takes",
        choices=("auto", "json_schema", "json_object", "none"),
        fixed=LOADED,
    )
    score: float = _knob(
        0.5, "score of objects where the server tells no probabilities", low=0.0, high=1.0, fixed=LOADED
    )


@dataclass(frozen=True, slots=True)
class RecordedSettings:
    """The answers that are replayed where engine.backend is recorded."""

    path: str = _knob("", "file that lfm-perception record made", fixed=LOADED)
    match: str = _knob(
        "picture",
        "a frame is known by its pixels, or by its stamp where another decoder makes other pixels",
        choices=("picture", "stamp"),
        fixed=LOADED,
    )


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How a frame becomes image tokens; one token is 32 x 32 pixels."""

    min_tokens: int = _knob(32, "a smaller frame is enlarged to this", unit="tokens", low=1, high=1024)
    max_tokens: int = _knob(256, "a larger frame is shrunk to this or tiled", unit="tokens", low=1, high=1024)
    max_tiles: int = _knob(1, "most 512 x 512 tiles of one frame; 1: never tiled", low=1, high=10)
    splitting: bool = _knob(True, "large frames may be split into tiles, up to image.max_tiles")
    thumbnail: bool = _knob(True, "a tiled frame is also shown whole, within image.max_tokens")


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the next token is drawn."""

    temperature: float = _knob(0.1, "0: always the likeliest token", low=0.0, high=2.0, fixed=LOADED)
    min_p: float = _knob(
        0.15,
        "tokens less likely than this share of the likeliest are left out",
        low=0.0,
        high=1.0,
        fixed=LOADED,
    )
    repeat_penalty: float = _knob(
        1.05, "penalty on tokens already used; 1: none", low=1.0, high=2.0, fixed=LOADED
    )
    seed: int = _knob(
        0, "seed of the draw; the same seed gives the same answer", low=0, high=2**31 - 1, fixed=LOADED
    )


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """What one frame may cost."""

    tokens: int = _knob(
        0, "image and answer tokens of one frame; 0: only the answer limits", unit="tokens", low=0, high=32768
    )
    latency: float = _knob(0.0, "time from frame to answer; 0: no deadline", unit="s", low=0.0, high=600.0)


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Which frames the model looks at; tracks fill the gaps."""

    motion_threshold: float = _knob(
        0.0,
        "change of the picture below which a frame is not looked at, of 1 for black to white; 0: all are",
        low=0.0,
        high=1.0,
    )
    max_interval: float = _knob(
        1.0, "an unchanged scene is looked at again after this", unit="s", low=0.0, high=3600.0
    )
    duty_cycle: float = _knob(1.0, "most of the time that the model may work", low=0.01, high=1.0)


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """What is looked for, and how it is asked."""

    labels: tuple[str, ...] = _knob(
        ("person", "box", "cone", "forklift", "pallet"), "names to look for; empty: every object"
    )
    dialect: str = _knob("bbox", "way of asking for boxes: bbox, bbox_2d, or a name under 'dialects'")
    closed: bool = _knob(False, "the answer may hold no name but detect.labels")
    max_tokens: int = _knob(
        512,
        "longest answer; whole objects are kept",
        unit="tokens",
        low=ONE_OBJECT_TOKENS,
        high=4096,
    )
    coordinates: str = _knob(
        "mean",
        "mean: boxes from the model's probabilities of the numbers; printed: from the printed numbers",
        choices=("mean", "printed"),
        fixed=LOADED,
    )
    score_gain: float = _knob(
        2.0,
        "calibration of a detection's score: factor of its log odds; 1: as the model gives. The demo model's",
        low=0.01,
        high=100.0,
    )
    score_bias: float = _knob(
        4.5, "calibration of a detection's score: added to its log odds then", low=-20.0, high=20.0
    )
    min_score: float = _knob(0.0, "detections with a lower score are dropped", low=0.0, high=1.0)


@dataclass(frozen=True, slots=True)
class CaptionSettings:
    """The sentence about the scene."""

    enabled: bool = _knob(True, "describe the scene in words")
    period: float = _knob(1.0, "time between captions; 0: on every frame", unit="s", low=0.0, high=3600.0)
    max_tokens: int = _knob(64, "longest caption", unit="tokens", low=4, high=1024)
    prompt: str = _knob(CAPTION.user, "what is asked")


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """How detections become tracks."""

    algorithm: str = _knob("kalman", "tracking algorithm, by its registered name", fixed=STARTED)
    min_iou: float = _knob(
        0.15, "least overlap of a detection with a track's predicted box", low=0.0, high=1.0
    )
    label_mismatch_weight: float = _knob(
        0.5, "what an overlap counts when the labels differ; 1: as much as with the same", low=0.0, high=1.0
    )
    min_hits: int = _knob(2, "detections before a track is shown", low=1, high=100)
    max_consecutive_misses: int = _knob(
        1, "answers in a row that may miss a track before it is hidden", low=0, high=1000
    )
    max_age: float = _knob(
        1.2, "a track that answers have missed for longer ends", unit="s", low=0.0, high=60.0
    )
    max_gap: float = _knob(
        5.0, "time without any answer that tracks outlive, hidden", unit="s", low=0.0, high=60.0
    )
    measurement_noise: float = _knob(
        0.1,
        "how far off a measured centre or size is where the model gives no spread, in box widths",
        low=0.001,
        high=1.0,
    )
    measurement_noise_scale: float = _knob(
        2.5, "how far off a measured side is, in spreads that the model gives", low=0.1, high=10.0
    )
    min_measurement_noise: float = _knob(0.004, "how far off at least, in image widths", low=0.0001, high=0.1)
    process_noise: float = _knob(
        0.1, "by how much a speed changes in a second", unit="image widths/s", low=0.001, high=10.0
    )
    initial_velocity_std: float = _knob(
        0.3, "speed that something new may have", unit="image widths/s", low=0.001, high=10.0
    )
    score_gain: float = _knob(
        1.5,
        "calibration of a track's score: factor of its log odds; 1: as its detections have it",
        low=0.01,
        high=100.0,
    )
    score_bias: float = _knob(
        -0.1, "calibration of a track's score: added to its log odds then", low=-20.0, high=20.0
    )
    camera_motion_compensation: str = _knob(
        "auto",
        "tracks move with the image when the camera turns or drives; auto: from some motion on",
        choices=("auto", "on", "off"),
    )
    per_label: tuple[str, ...] = _knob(
        (), "other values for one label: `forklift: min_hits=3, process_noise=0.05`"
    )

    @property
    def rules(self) -> Mapping[str, TrackerSettings]:
        """The settings of each label that has its own; PerceptionError when an entry is not understood."""
        return dict(self._rule(entry) for entry in self.per_label)

    def _rule(self, entry: str) -> tuple[str, TrackerSettings]:
        label, colon, changes = entry.rpartition(":")
        knobs = {knob.key: knob for knob in describe() if knob.group == "tracker" and knob.key in PER_LABEL}
        values: dict[str, Any] = {}
        for change in changes.split(","):
            key, equals, text = (part.strip() for part in change.partition("="))
            if not (label.strip() and colon and equals):
                raise PerceptionError(
                    "tracker.per_label takes `label: name=value, name=value`, got " + _shown(entry)
                )
            if key not in knobs:
                raise PerceptionError(
                    f"tracker.per_label cannot change {_shown(key)} for one label{_suggestion(key, knobs)}"
                )
            try:
                values[key] = knobs[key].check(yaml.safe_load(text))
            except yaml.YAMLError as error:
                raise PerceptionError(f"tracker.per_label: {_shown(text)} is no value for {key}") from error
        return label.strip(), replace(self, **values)


@dataclass(frozen=True, slots=True)
class ThermalSettings:
    """How the board is watched, and what is done when it grows too hot."""

    sysfs: str = _knob("/sys", "where the board's sensors are; another folder for a rehearsal")
    period: float = _knob(1.0, "time between two looks at the board", unit="s", low=0.05, high=60.0)
    ignored_sensors: tuple[str, ...] = _knob(
        ("PMIC-Die",), "sensors that do not count; that one says 100 °C at all times on some Jetsons"
    )
    reduce_tokens_at: float = _knob(
        85.0, "from here on pictures and answers get fewer tokens", unit="°C", low=0.0, high=200.0
    )
    reduce_duty_cycle_at: float = _knob(
        92.0, "from here on the model rests too", unit="°C", low=0.0, high=200.0
    )
    pause_at: float = _knob(97.0, "from here on no frame is looked at", unit="°C", low=0.0, high=200.0)
    hysteresis: float = _knob(
        5.0, "how much cooler it must be for a step to be taken back", unit="°C", low=0.0, high=100.0
    )
    min_hold: float = _knob(10.0, "least time before a step is taken back", unit="s", low=0.0, high=3600.0)
    token_scale: float = _knob(
        0.5, "share of the tokens that is left from reduce_tokens_at on", low=0.05, high=1.0
    )
    duty_cycle: float = _knob(
        0.3, "most of the time that the model may work from reduce_duty_cycle_at on", low=0.01, high=1.0
    )


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How the ROS node starts, takes images, and when its diagnostics complain."""

    autostart: bool = _knob(False, "the node configures and activates itself when it starts", fixed=STARTED)
    image_transport: str = _knob("raw", "how images arrive", choices=("raw", "compressed"), fixed=SUBSCRIBED)
    image_reliability: str = _knob(
        "best_effort",
        "reliability of the image subscription",
        choices=("best_effort", "reliable"),
        fixed=SUBSCRIBED,
    )
    camera_timeout: float = _knob(
        1.0, "silence after which the camera is called dead", unit="s", low=0.1, high=2.0
    )
    diagnostics_period: float = _knob(1.0, "time between diagnostics", unit="s", low=0.1, high=60.0)
    input_hz_warn: float = _knob(5.0, "a slower camera is a warning", unit="Hz", low=0.0, high=1000.0)
    inference_age_warn: float = _knob(
        2.0, "no newer answer than this is a warning", unit="s", low=0.0, high=600.0
    )
    future_tolerance: float = _knob(
        1.0, "frames stamped further in the future are refused", unit="s", low=0.0, high=3600.0
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `dialects` holds the ways of asking that the user added to the built-in ones.

    Raises PerceptionError when a value is out of range or two values contradict each other.
    """

    model: ModelSettings = ModelSettings()
    mmproj: MmprojSettings = MmprojSettings()
    lora: LoraSettings = LoraSettings()
    engine: EngineSettings = EngineSettings()
    openai: OpenaiSettings = OpenaiSettings()
    recorded: RecordedSettings = RecordedSettings()
    image: ImageSettings = ImageSettings()
    sampling: SamplingSettings = SamplingSettings()
    budget: BudgetSettings = BudgetSettings()
    inference: InferenceSettings = InferenceSettings()
    detect: DetectSettings = DetectSettings()
    caption: CaptionSettings = CaptionSettings()
    tracker: TrackerSettings = TrackerSettings()
    thermal: ThermalSettings = ThermalSettings()
    node: NodeSettings = NodeSettings()
    dialects: tuple[Dialect, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Settings:
        """The settings of a YAML file; what it leaves out keeps its default.

        The groups stand at the top, or where ROS looks for the parameters of a node.
        Raises PerceptionError, with the file's name, for everything that is wrong with it.
        """
        try:
            return cls.from_dict(_read_yaml(Path(path)))
        except PerceptionError as error:
            raise PerceptionError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object]) -> Settings:
        """Settings from groups (`{"image": {"max_tokens": 64}}`) or dotted names, over the defaults."""
        values: dict[str, object] = {}
        dialects: tuple[Dialect, ...] = ()
        for key, entry in mapping.items():
            if key == "dialects":
                dialects = _user_dialects(entry)
                continue
            group = _group_entries(key, entry) if key in _groups() else {key: entry}
            for name in group.keys() & values.keys():
                raise PerceptionError(f"setting {name} is given twice")
            values.update(group)
        return _built(cls(), values, dialects)

    def with_values(self, values: Mapping[str, object]) -> Settings:
        """A copy with the settings of these dotted names changed: `{"image.max_tokens": 64}`."""
        return _built(self, values, self.dialects)

    def values(self) -> dict[str, Value]:
        """Every setting by its dotted name, in the order of `describe()`."""
        return {knob.name: getattr(getattr(self, knob.group), knob.key) for knob in describe()}

    @property
    def dialect(self) -> Dialect:
        """The dialect that `detect.dialect` names."""
        return self._dialects_by_name()[self.detect.dialect]

    def _dialects_by_name(self) -> dict[str, Dialect]:
        return {**DIALECTS, **{dialect.name: dialect for dialect in self.dialects}}

    def __post_init__(self) -> None:
        for knob in describe():
            knob.check(getattr(getattr(self, knob.group), knob.key))
        self._check_files()
        self._check_words()
        self._check_tokens()
        self._check_temperatures()

    def _check_files(self) -> None:
        for group in ("model", "mmproj", "lora"):
            name, digest = f"{group}.sha256", getattr(self, group).sha256
            if digest and not re.fullmatch("[0-9a-fA-F]{64}", digest):
                raise PerceptionError(f"{name} must be 64 hexadecimal digits or empty, got {_shown(digest)}")
        if self.engine.backend == "recorded" and not self.recorded.path:
            raise PerceptionError("engine.backend is recorded and recorded.path is empty: name the file")
        if bool(self.model.path) != bool(self.mmproj.path):
            raise PerceptionError(
                f"model.path is {_shown(self.model.path)} and mmproj.path is {_shown(self.mmproj.path)}: "
                "give both, or neither for the demo model"
            )

    def _check_words(self) -> None:
        labels = self.detect.labels
        for label in labels:
            _check_prompt_text("detect.labels", label)
        for label in {label for label in labels if labels.count(label) > 1}:
            raise PerceptionError(f"detect.labels holds {_shown(label)} more than once")
        _ = self.tracker.rules  # each entry must be understood
        if self.detect.closed and not labels:
            raise PerceptionError(
                "detect.closed is true but detect.labels is empty: name the labels to allow"
            )
        _check_prompt_text("caption.prompt", self.caption.prompt)
        known = self._dialects_by_name()
        if self.detect.dialect not in known:
            raise PerceptionError(
                f"detect.dialect must be one of {', '.join(known)}, got {_shown(self.detect.dialect)}"
                f"{_suggestion(self.detect.dialect, known)}"
            )

    def _check_tokens(self) -> None:
        image, engine, budget = self.image, self.engine, self.budget
        if image.min_tokens > image.max_tokens:
            raise PerceptionError(
                f"image.min_tokens {image.min_tokens} is above image.max_tokens {image.max_tokens}: "
                "lower the one or raise the other"
            )
        if engine.n_batch > engine.n_ctx:
            raise PerceptionError(
                f"engine.n_batch {engine.n_batch} is above engine.n_ctx {engine.n_ctx}: "
                "a batch must fit the context"
            )
        least = image.min_tokens + ONE_OBJECT_TOKENS
        if 0 < budget.tokens < least:
            raise PerceptionError(
                f"budget.tokens {budget.tokens} is too small for any answer: give at least {least}, which is "
                f"image.min_tokens {image.min_tokens} + {ONE_OBJECT_TOKENS} for one object, or 0 for no limit"
            )
        needed = self._context_needed()
        if needed > engine.n_ctx:
            raise PerceptionError(
                f"engine.n_ctx {engine.n_ctx} cannot hold image, prompt and answer, about {needed} tokens: "
                "raise it, or lower image.max_tokens, image.max_tiles or the answers' max_tokens"
            )

    def _check_temperatures(self) -> None:
        thermal = self.thermal
        if not thermal.reduce_tokens_at <= thermal.reduce_duty_cycle_at <= thermal.pause_at:
            raise PerceptionError(
                f"thermal.reduce_tokens_at {thermal.reduce_tokens_at:g}, thermal.reduce_duty_cycle_at "
                f"{thermal.reduce_duty_cycle_at:g} and thermal.pause_at {thermal.pause_at:g} "
                "must rise in this order"
            )

    def _context_needed(self) -> int:
        """Tokens of the largest frame, about (text at 3 bytes a token); the engine counts exactly."""
        image = self.image
        image_tokens = image.max_tokens
        if image.splitting and image.max_tiles > 1:
            thumbnail = image.max_tokens if image.thumbnail else 0
            image_tokens = max(image_tokens, image.max_tiles * TILE_TOKENS + thumbnail)
        asked = self.dialect.prompt(self.detect.labels)
        questions = [(f"{asked.system}{asked.user}", self.detect.max_tokens)]
        if self.caption.enabled:
            questions.append((self.caption.prompt, self.caption.max_tokens))
        limit = self.budget.tokens or sys.maxsize
        # 32 tokens hold the chat template and the image's markers
        return max(
            min(image_tokens + answer, limit) + len(text.encode()) // 3 + 32 for text, answer in questions
        )


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting, as a table, a YAML comment, a ROS parameter and an error message need it.

    `low` and `high` are inclusive and set for numbers only; `choices` for text with a fixed set of values.
    `fixed` says why the setting cannot change while the node runs; empty: it can.
    """

    name: str
    kind: type
    default: Value
    words: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    fixed: str

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        return self.name.partition(".")[2]

    @property
    def allowed(self) -> str:
        """What may stand here, in words: `a whole number from 1 to 10`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in (int, float):
            noun = "a whole number" if self.kind is int else "a number"
            unit = f" {self.unit}" if self.unit else ""
            return f"{noun} from {self.low:.10g} to {self.high:.10g}{unit}"
        return {bool: "true or false", str: "text", tuple: "a list of texts"}[self.kind]

    def check(self, value: object) -> Value:
        """The value in this setting's type. Raises PerceptionError naming setting, range and value."""
        given = value
        # YAML reads a bare on and off as true and false
        if isinstance(value, bool) and {"on", "off"} <= set(self.choices):
            value = "on" if value else "off"
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**53 else math.inf
        if self.kind is tuple and isinstance(value, list):
            value = tuple(value)
        if not self._fits(value):
            raise PerceptionError(f"{self.name} must be {self.allowed}, got {_shown(given)}")
        return value  # type: ignore[return-value]

    def _fits(self, value: object) -> bool:
        if type(value) is not self.kind:
            return False
        if isinstance(value, (int, float)) and self.low is not None and self.high is not None:
            return self.low <= value <= self.high
        if isinstance(value, tuple):
            return all(isinstance(item, str) and _is_plain(item) for item in value)
        if isinstance(value, str):
            return _is_plain(value) and (not self.choices or value in self.choices)
        return True


@cache
def describe() -> tuple[Knob, ...]:
    """Every setting, in the order a person reads them."""
    return tuple(
        Knob(
            name=f"{group}.{entry.name}",
            kind=type(getattr(defaults, entry.name)),
            default=getattr(defaults, entry.name),
            **entry.metadata,
        )
        for group, defaults in _groups().items()
        for entry in fields(defaults)
    )


def as_yaml() -> str:
    """The defaults as a commented YAML file: the text of `config/perception.yaml`."""
    lines = [
        "# Every setting with its default; what a file leaves out keeps it.",
        "# For the ROS node (params_file:=FILE) and for the command line (--settings FILE).",
        "# Made by `make docs` from lfm_perception/settings.py.",
        ANY_NODE + ":",
        f"  {ROS_PARAMETERS}:",
    ]
    group = ""
    for knob in describe():
        if knob.group != group:
            lines += [""] if group else []
            group = knob.group
            lines += [f"    # {_groups()[group].__doc__}", f"    {group}:"]
        lines += [
            f"      # {knob.words} ({knob.allowed})",
            f"      {knob.key}: {json.dumps(knob.default)}",
        ]
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """The settings as a Markdown page: the text of `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Made by `make docs` from `lfm_perception/settings.py`. A YAML file sets any of them, by group as in",
        "`config/perception.yaml`; what it leaves out keeps its default. The same file serves the ROS node",
        "and the command line, which also reads one that begins with the groups.",
        "",
        "Those marked live can change while the ROS node runs.",
        "",
        "| Setting | Default | Allowed | Live | Meaning |",
        "|---|---|---|---|---|",
    ]
    for knob in describe():
        default = json.dumps(knob.default)
        live = "" if knob.fixed else "live"
        lines.append(f"| `{knob.name}` | `{default}` | {knob.allowed} | {live} | {knob.words} |")
    return "\n".join(lines) + "\n"


@cache
def _groups() -> dict[str, Any]:
    """The default value of each group of settings, by the group's name."""
    return {entry.name: entry.default for entry in fields(Settings) if entry.name != "dialects"}


def _built(base: Settings, values: Mapping[str, object], dialects: tuple[Dialect, ...]) -> Settings:
    knobs = {knob.name: knob for knob in describe()}
    changes: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        if name not in knobs:
            raise PerceptionError(
                f"unknown setting {_shown(name)}{_suggestion(name, [*knobs, *_groups(), 'dialects'])}"
            )
        knob = knobs[name]
        changes.setdefault(knob.group, {})[knob.key] = knob.check(value)
    groups = {group: replace(getattr(base, group), **entries) for group, entries in changes.items()}
    return replace(base, **groups, dialects=dialects)


def _group_entries(group: str, entries: object) -> dict[str, object]:
    if entries is None:  # every line of the group commented out
        return {}
    if not isinstance(entries, Mapping):
        raise PerceptionError(
            f"{group} must be a group of settings ({group}.… : value), got {_shown(entries)}"
        )
    return {f"{group}.{key}": value for key, value in entries.items()}


def _user_dialects(entry: object) -> tuple[Dialect, ...]:
    if entry is None:
        return ()
    if not isinstance(entry, Mapping):
        raise PerceptionError(f"dialects must be a mapping from name to dialect, got {_shown(entry)}")
    return tuple(_user_dialect(name, parts) for name, parts in entry.items())


def _user_dialect(name: object, parts: object) -> Dialect:
    where = f"dialects.{name}"
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise PerceptionError(f"a dialect's name must be letters, digits, '_' and '-', got {_shown(name)}")
    if name in DIALECTS:
        raise PerceptionError(f"{where}: this name is built in, choose another")
    if not isinstance(parts, Mapping):
        raise PerceptionError(
            f"{where} must be a mapping with 'user' and the keys it changes, got {_shown(parts)}"
        )
    known = {entry.name: entry for entry in fields(Dialect) if entry.name != "name"}
    values: dict[str, Any] = {}
    for key, value in parts.items():
        if key not in known:
            raise PerceptionError(f"{where} has an unknown key {_shown(key)}{_suggestion(str(key), known)}")
        values[key] = _dialect_value(f"{where}.{key}", known[key].default, value)
    if "user" not in values:
        raise PerceptionError(f"{where} lacks 'user', the words of the request with {{labels}} in them")
    try:
        return Dialect(name=name, **values)
    except ValueError as error:
        raise PerceptionError(str(error)) from error


def _dialect_value(where: str, default: object, value: object) -> object:
    if isinstance(default, int):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
            raise PerceptionError(f"{where} must be a whole number from 0 to 1000000, got {_shown(value)}")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(_is_json_key(key) for key in value):
            raise PerceptionError(
                f"{where} must be a list of keys of letters, digits and '_', got {_shown(value)}"
            )
        return tuple(value)
    if where.endswith("_key"):
        if not _is_json_key(value):
            raise PerceptionError(f"{where} must be a key of letters, digits and '_', got {_shown(value)}")
        return value
    if not isinstance(value, str) or not _is_plain(value):
        raise PerceptionError(f"{where} must be text, got {_shown(value)}")
    if default is MISSING or value:  # the system turn may be empty
        _check_prompt_text(where, value)
    return value


def _is_json_key(key: object) -> bool:
    return isinstance(key, str) and re.fullmatch(r"\w+", key) is not None


def _is_plain(text: str) -> bool:
    """No control characters but line break and tab, and nothing that UTF-8 cannot hold."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text)


def _check_prompt_text(where: str, text: str) -> None:
    """Refuses text that is blank or would be read as a special token or as an image's place."""
    if not text.strip():
        raise PerceptionError(f"{where} must not be blank, got {_shown(text)}")
    if marker := SPECIAL_TOKEN.search(text):
        raise PerceptionError(
            f"{where} must not hold the special token {marker.group()!r}, got {_shown(text)}"
        )


def _suggestion(name: str, known: Any) -> str:
    """`: did you mean 'x'?` for the nearest known name; a key alone is compared with the last part too."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if not close:
        by_key = {full.rpartition(".")[2]: full for full in reversed(names)}
        close = [by_key[key] for key in difflib.get_close_matches(name.rpartition(".")[2], by_key, n=1)]
    return f": did you mean {close[0]!r}?" if close else f": known are {reprlib.repr(names)}"


def _shown(value: object) -> str:
    """The value as the user wrote it, on one line and short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return reprlib.repr(value)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML itself would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in names:
                    line = key_node.start_mark.line + 1
                    raise PerceptionError(f"line {line}: {_shown(key_node.value)} is given twice")
                names.add(key_node.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise PerceptionError(
            f"cannot read the settings: {(error.strerror or str(error)).lower()}"
        ) from error
    except UnicodeDecodeError as error:
        raise PerceptionError("not a text file in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise PerceptionError(f"not valid YAML{place}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise PerceptionError(f"not valid YAML: {' '.join(str(error).split())}") from error
    groups = _without_node(content)
    if groups is None:
        return {}
    if not isinstance(groups, Mapping) or not all(isinstance(key, str) for key in groups):
        raise PerceptionError(
            f"settings are groups of names and values (image: {{max_tokens: 64}}), got {_shown(groups)}"
        )
    return groups


def _without_node(content: object) -> object:
    """What a file holds; of a ROS parameter file what its only node is given."""
    if not isinstance(content, Mapping):
        return content
    nodes = [node for node in content.values() if isinstance(node, Mapping) and ROS_PARAMETERS in node]
    if not nodes:
        return content
    if len(content) > 1:
        raise PerceptionError(f"parameters of one node are wanted, got {reprlib.repr(list(content))}")
    if len(nodes[0]) > 1:
        raise PerceptionError(f"{ROS_PARAMETERS} must stand alone under a node, got {_shown(nodes[0])}")
    return nodes[0][ROS_PARAMETERS]


if __name__ == "__main__":
    print({"yaml": as_yaml, "markdown": as_markdown}[sys.argv[1]](), end="")
