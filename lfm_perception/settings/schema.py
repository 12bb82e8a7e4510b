# SPDX-License-Identifier: Apache-2.0
"""The parameters of perception and node, group by group: type, default, range, unit and description.

Those of the model and the inference backends are in `model_schema.py`. A new parameter is one more field;
`make docs` writes it into the YAML file and the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from lfm_perception.answer_forms import ANSWER_FORMS
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import parse_yaml
from lfm_perception.image_plan import MAX_TILE_SIZE, MAX_TILES, TOKEN_SIDE, ImageLimits
from lfm_perception.questions import CAPTION
from lfm_perception.settings.spec import parameter, specs_of
from lfm_perception.settings.validation import ONE_OBJECT_TOKENS, RENAMED, suggestion, unknown_name
from lfm_perception.standing_questions import StandingQuestion, standing_questions

LOADED = "the model is loaded with it"
STARTED = "the node has started with it"
SUBSCRIBED = "the image subscription is made with it"

LOADED_GROUPS = ("model", "mmproj", "lora", "engine", "openai", "recorded", "sampling")
"""Groups whose parameters are all read-only, because the model is loaded with them."""

PER_LABEL = ("min_iou", "min_hits", "max_consecutive_misses", "max_coasting", "max_age", "process_noise")
"""Tracker parameters that `tracker.per_label` may change."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Image tokens of a frame; one token covers 32 x 32 pixels."""

    min_tokens: int = parameter(32, "minimum image tokens; a smaller frame is enlarged", (1, 1024), "tokens")
    max_tokens: int = parameter(
        256, "maximum image tokens; a larger frame is shrunk or tiled", (1, 1024), "tokens"
    )
    max_tiles: int = parameter(1, "maximum number of tiles per frame; 1: no tiling", (1, MAX_TILES))
    splitting: bool = parameter(True, "splitting of large frames into tiles, up to image.max_tiles")
    thumbnail: bool = parameter(True, "thumbnail of a tiled frame, within image.max_tokens")
    bit_depth: str = parameter(
        "auto",
        "significant bits of 16-bit images; auto: measured",
        ("auto", *map(str, range(8, 17))),
        read_only=SUBSCRIBED,
    )
    min_tiles: int = parameter(2, "minimum number of tiles of a tiled frame", (1, MAX_TILES))
    tile_size: int = parameter(
        512, "width and height of a tile, a multiple of 32", (TOKEN_SIDE, MAX_TILE_SIZE), "px"
    )
    pixel_tolerance: float = parameter(
        2.0, "area above which a frame is tiled, as a multiple of image.max_tokens", (1.0, 100.0)
    )
    resample: str = parameter(
        "bilinear", "antialiased filter of resizing, as the model was trained with", ("bilinear", "bicubic")
    )

    @property
    def limits(self) -> ImageLimits:
        """The limits of image plans. PerceptionError when they contradict each other."""
        names = {entry.name for entry in fields(ImageLimits)} & {entry.name for entry in fields(self)}
        return ImageLimits(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Sampling of free text, such as captions; boxes have their own in `detect`."""

    temperature: float = parameter(0.1, "sampling temperature; 0: always the likeliest token", (0.0, 2.0))
    top_k: int = parameter(0, "number of likeliest tokens to choose from; 0: all", (0, 100_000))
    min_p: float = parameter(0.15, "minimum probability of a token relative to the likeliest", (0.0, 1.0))
    repeat_penalty: float = parameter(1.05, "penalty on tokens already used; 1: none", (1.0, 2.0))
    seed: int = parameter(0, "random seed; equal seeds give equal answers", (0, 2**31 - 1))


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """Limits on the cost of one frame."""

    tokens: int = parameter(
        0, "maximum image and answer tokens per frame; 0: only the answer limits", (0, 32768), "tokens"
    )
    latency: float = parameter(0.0, "maximum time from frame to answer; 0: no deadline", (0.0, 600.0), "s")


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Motion gate and duty cycle, which choose the frames for inference."""

    motion_threshold: float = parameter(
        0.0, "minimum image change for an inference, 1: black to white; 0: gate off", (0.0, 1.0)
    )
    max_interval: float = parameter(
        1.0, "maximum time between inferences on a static scene", (0.0, 3600.0), "s"
    )
    duty_cycle: float = parameter(1.0, "maximum inference duty cycle", (0.01, 1.0))


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """Detection: labels, dialect, answer length and scores."""

    labels: tuple[str, ...] = parameter(
        ("person", "box", "cone", "forklift", "pallet"), "labels to detect; empty: all objects"
    )
    synonyms: tuple[str, ...] = parameter(
        (), "other names that the model may use for a label: `forklift: fork lift truck, Gabelstapler`"
    )
    dialect: str = parameter("bbox", "grounding dialect: bbox, bbox_2d, refcoco, or a name under 'dialects'")
    closed: bool = parameter(False, "closed vocabulary: no other labels than detect.labels in an answer")
    attributes: tuple[str, ...] = parameter(
        (),
        "attributes asked of each track: `{name: helmet, values: [yes, no], labels: [person]}`",
        mappings=True,
    )
    temperature: float = parameter(
        0.0, "sampling temperature of box answers; 0: greedy", (0.0, 2.0), read_only=LOADED
    )
    top_k: int = parameter(
        0, "number of likeliest tokens to choose from in box answers; 0: all", (0, 100_000), read_only=LOADED
    )
    min_p: float = parameter(
        0.0, "minimum relative probability of a token of a box answer", (0.0, 1.0), read_only=LOADED
    )
    max_tokens: int = parameter(
        512, "maximum answer length; objects are kept whole", (ONE_OBJECT_TOKENS, 4096), "tokens"
    )
    coordinates: str = parameter(
        "mean",
        "box coordinates: expectation over the number tokens, or the printed numbers",
        ("mean", "printed"),
        read_only=LOADED,
    )
    score_gain: float = parameter(
        2.0, "Platt scaling gain of detection scores: factor on the log odds", (0.01, 100.0)
    )
    score_bias: float = parameter(
        4.5, "Platt scaling bias of detection scores: offset of the log odds", (-20.0, 20.0)
    )
    min_score: float = parameter(0.0, "minimum confidence of a detection", (0.0, 1.0))
    max_area: float = parameter(
        0.98, "maximum area of a box; larger ones are whole-image answers; 1: no limit", (0.01, 1.0), "images"
    )
    nms_iou: float = parameter(
        0.7,
        "minimum IoU at which the detection with the lower score is a duplicate; 1: only equal boxes",
        (0.1, 1.0),
    )


@dataclass(frozen=True, slots=True)
class CaptionSettings:
    """The caption: one sentence about the scene."""

    enabled: bool = parameter(True, "generation of captions")
    period: float = parameter(1.0, "minimum time between captions; 0: on every inference", (0.0, 3600.0), "s")
    max_tokens: int = parameter(64, "maximum caption length", (4, 1024), "tokens")
    prompt: str = parameter(CAPTION.user, "prompt of the caption")


@dataclass(frozen=True, slots=True)
class QuestionSettings:
    """Standing questions, and the calibration of answers that have a probability."""

    standing: tuple[str, ...] = parameter(
        (),
        'questions asked again and again, with alerts: `{name: door, question: "Is the door open?"}`',
        mappings=True,
    )
    language: str = parameter(
        "en",
        "language of questions and attributes that name none, in which a typed answer is asked for",
        tuple(ANSWER_FORMS),
    )
    duty_cycle: float = parameter(
        0.2, "maximum duty cycle of standing questions and attributes together", (0.01, 1.0)
    )
    score_gain: float = parameter(
        1.0, "Platt scaling gain of the probabilities of answers: factor on the log odds", (0.01, 100.0)
    )
    score_bias: float = parameter(
        0.0, "Platt scaling bias of the probability of yes: offset of the log odds", (-20.0, 20.0)
    )

    @property
    def alerts(self) -> tuple[StandingQuestion, ...]:
        """The standing questions. PerceptionError for an entry that cannot be asked."""
        return standing_questions(self.standing, self.language)


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """Multi-object tracking: data association, Kalman filters and the life of a track."""

    algorithm: str = parameter("kalman", "registered name of the tracking algorithm", read_only=STARTED)
    min_iou: float = parameter(0.15, "minimum IoU of a detection with a track's predicted box", (0.0, 1.0))
    nms_iou: float = parameter(
        0.75, "minimum IoU of two detections of one answer that are one object detected twice", (0.0, 1.0)
    )
    label_mismatch_weight: float = parameter(
        0.5, "weight of the IoU where the labels differ; 1: as for equal labels", (0.0, 1.0)
    )
    min_hits: int = parameter(2, "minimum detections before a track is confirmed and shown", (1, 100))
    max_consecutive_misses: int = parameter(
        1, "maximum consecutive answers that miss a track before it is hidden", (0, 1000)
    )
    max_coasting: float = parameter(
        1.2,
        "maximum time since the last detection in which a track is predicted and associated by IoU",
        (0.0, 60.0),
        "s",
    )
    max_age: float = parameter(
        4.0,
        "maximum time since the last detection before a track is removed and its object gets a new id",
        (0.0, 60.0),
        "s",
    )
    max_gap: float = parameter(
        5.0, "maximum time without any answer before all tracks are removed", (0.0, 60.0), "s"
    )
    measurement_noise: float = parameter(
        0.06,
        "standard deviation of a measured centre or size, where the model gives none",
        (0.001, 1.0),
        "box widths/heights",
    )
    measurement_noise_scale: float = parameter(
        2.5, "factor on the standard deviations of box sides that the model gives", (0.1, 10.0)
    )
    min_measurement_noise: float = parameter(
        0.004,
        "term added to the standard deviation of a measured centre or size, in quadrature to the model's",
        (0.0001, 0.1),
        "image widths/heights",
    )
    process_noise: float = parameter(
        0.1,
        "process noise (white-noise acceleration): standard deviation of the velocity change per second",
        (0.001, 10.0),
        "image widths/heights per s",
    )
    initial_velocity_std: float = parameter(
        0.3, "standard deviation of the velocity of a new track", (0.001, 10.0), "image widths/heights per s"
    )
    score_gain: float = parameter(
        1.5, "Platt scaling gain of track scores: factor on the log odds", (0.01, 100.0)
    )
    score_bias: float = parameter(
        -0.1, "Platt scaling bias of track scores: offset of the log odds", (-20.0, 20.0)
    )
    camera_motion_compensation: str = parameter(
        "auto", "ego-motion compensation by optical flow; auto: while the camera moves", ("auto", "on", "off")
    )
    per_label: tuple[str, ...] = parameter(
        (), "other values for single labels: `forklift: min_hits=3, process_noise=0.05`"
    )

    @property
    def rules(self) -> Mapping[str, TrackerSettings]:
        """The settings of each label that has its own. PerceptionError for an entry that cannot be parsed."""
        return dict(self._rule(entry) for entry in self.per_label)

    def _rule(self, entry: str) -> tuple[str, TrackerSettings]:
        label, _, changes = entry.rpartition(":")
        specs = specs_of("tracker", TrackerSettings())
        values: dict[str, Any] = {}
        for change in changes.split(","):
            key, equals, text = (part.strip() for part in change.partition("="))
            if not (label.strip() and equals):
                raise PerceptionError(
                    "tracker.per_label takes `label: name=value, name=value`, got " + shown(entry)
                )
            if f"tracker.{key}" in RENAMED:
                raise unknown_name(f"tracker.{key}", None, ())
            if key not in PER_LABEL:
                raise PerceptionError(
                    f"tracker.per_label cannot change {shown(key)} for one label{suggestion(key, PER_LABEL)}"
                )
            try:
                value = parse_yaml(text)
            except PerceptionError as error:
                raise PerceptionError(f"tracker.per_label: {shown(text)} is no value for {key}") from error
            values[key] = specs[key].check(value)
        return label.strip(), replace(self, **values)


@dataclass(frozen=True, slots=True)
class ThermalSettings:
    """Thermal throttling policy: sensors of the board, and degradation levels by temperature."""

    sysfs: str = parameter(
        "/sys", "root folder of the sensor files; another one for a simulation", fixed=True
    )
    period: float = parameter(1.0, "time between two readings of the sensors", (0.05, 60.0), "s")
    ignored_sensors: tuple[str, ...] = parameter(
        ("PMIC-Die",), "names of ignored sensors; PMIC-Die is a constant 100 °C on some Jetsons"
    )
    reduce_tokens_at: float = parameter(
        85.0, "temperature from which images and answers get fewer tokens", (0.0, 200.0), "°C"
    )
    reduce_duty_cycle_at: float = parameter(
        92.0, "temperature from which the duty cycle is limited too", (0.0, 200.0), "°C"
    )
    pause_at: float = parameter(97.0, "temperature from which inference is paused", (0.0, 200.0), "°C")
    hysteresis: float = parameter(
        5.0, "cooling below a level's temperature before it ends", (0.0, 100.0), "°C"
    )
    min_hold: float = parameter(10.0, "minimum duration of a degradation level", (0.0, 3600.0), "s")
    token_scale: float = parameter(
        0.5, "factor on the token limits from thermal.reduce_tokens_at", (0.05, 1.0)
    )
    duty_cycle: float = parameter(
        0.3, "maximum inference duty cycle from thermal.reduce_duty_cycle_at", (0.01, 1.0)
    )


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The ROS node: start, image subscription, and thresholds of the diagnostics."""

    autostart: bool = parameter(False, "automatic configuration and activation at start", read_only=STARTED)
    image_transport: str = parameter("raw", "image transport", ("raw", "compressed"), read_only=SUBSCRIBED)
    image_reliability: str = parameter(
        "best_effort", "QoS reliability of the image subscription", ("best_effort", "reliable"),
        read_only=SUBSCRIBED,
    )  # fmt: skip
    depth: bool = parameter(
        False, "subscription to depth images on input_depth, which give tracks their distance",
        read_only=SUBSCRIBED,
    )  # fmt: skip
    depth_tolerance: float = parameter(
        0.1, "maximum difference of the stamps of a camera image and its depth image", (0.0, 10.0), "s"
    )
    camera_timeout: float = parameter(
        1.0, "time without an image after which the camera is an ERROR", (0.1, 2.0), "s"
    )
    diagnostics_period: float = parameter(1.0, "period of the diagnostics", (0.1, 60.0), "s")
    input_hz_warn: float = parameter(5.0, "image rate below which the camera is a WARN", (0.0, 1000.0), "Hz")
    inference_age_warn: float = parameter(
        2.0, "answer age above which the model is a WARN", (0.0, 600.0), "s"
    )
    future_tolerance: float = parameter(
        1.0, "maximum lead of an image's stamp over the clock", (0.0, 3600.0), "s"
    )
    overlay_strip: bool = parameter(False, "strip with the caption below debug_image", read_only=STARTED)
    image_age_warn: float = parameter(
        2.0, "stamp age on arrival above which the camera is a WARN", (0.0, 3600.0), "s"
    )
