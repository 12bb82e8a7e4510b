# SPDX-License-Identifier: Apache-2.0
"""Valid inputs that are mutated, and broken ones that are tried as they are."""

from __future__ import annotations

import hashlib
import json

BROKEN_JSON = (
    "",
    "\0",
    "null",
    "[]",
    "{}",
    "3",
    '"x"',
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"a": 1, "a": 2}',
    "9" * 10_000,
    '{"kind": "bench", "x": ' + "9" * 5000 + "}",
    '{"version": Infinity}',
    '{"x": 1e999}',
    '["\\ud800"]',
)

BROKEN_BYTES = (b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"\xe4", bytes(range(256)))

SETTINGS = """\
image: {max_tokens: 64, min_tokens: 16}
detect:
  labels: [person, box]
  dialect: mine
tracker:
  per_label: ['person: min_hits=1, process_noise=0.05']
dialects:
  mine: {user: 'Find {labels}', keys: [label, bbox], decimals: 2}
sampling: {temperature: 0.1}
"""

ROS_SETTINGS = "/**:\n  ros__parameters:\n    image: {max_tokens: 64}\n    detect.labels: [person]\n"


RULES = """\
units: pixels
image: [640, 480]
zones: {dock: [[320, 240], [640, 240], [640, 480]], shelf: {points: [[0, 0], [9, 0], [9, 9]], anchor: centre}}
lines: {door: [[320, 480], [320, 240]]}
rules:
  in: {when: {label: [person, box], inside: [dock, shelf], speed: {above: 1, hysteresis: 0.5}}, for: 1}
  over: {when: {crosses: {line: door, to: left}}, cooldown: 5, message: over it}
  crowd: {when: {count: {inside: dock}, more_than: 2}, actions: {publish_bool: dock/crowd, snapshot: true}}
  near: {when: {all: [{near: {label: box, within: 64}}, {not: {rule: crowd}}]}, end_after: 1}
  goes: {when: {attributes: {helmet: no}, size: {below: 99}, outside: dock, disappears: 0.5}}
  acts:
    when: {label: box}
    actions:
      ask: {question: "Is it open?", type: choice, options: [open, shut], language: en}
      set_parameter: {node: /arm, name: speed.max, value: [0.1, 0.2], end: [1.0]}
      clip: true
"""


EVENT = {
    "version": 1,
    "event_id": "in-1",
    "rule": "in",
    "state": "begin",
    "stamp": {"sec": 1, "nanosec": 5},
    "begin": {"sec": 1, "nanosec": 5},
    "duration_s": 0.5,
    "frame_id": "camera",
    "message": "x" * 40,
    "tracks": 30 * [{"track_id": 1, "label": "box", "confidence": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}],
    "tracks_left_out": 0,
    "values": {"count": 3, "near": "box"},
    "suppressed": 0,
}

_ROW = [1, 2, 3]
DRIFT = {
    "kind": "drift baseline",
    "version": 1,
    "source": "x",
    "labels": ["person", "box"],
    "block_s": 10.0,
    "quantities": {
        "scores": {"edges": [0.2, 0.5], "counts": [_ROW, _ROW, _ROW]},
        "labels": {"names": ["person", "box"], "counts": [_ROW, _ROW, _ROW]},
        "detections": {"edges": [1.5, 2.5], "counts": [_ROW, _ROW, _ROW]},
    },
}


def _bomb(merge: bool) -> str:
    """YAML of a few hundred bytes that means 9^8 values."""
    lines, last = ["a: &a {k: v}"], "a"
    for index in range(8):
        aliases = ",".join([f"*{last}"] * 9)
        lines.append(f"b{index}: &b{index} " + (f"{{<<: [{aliases}]}}" if merge else f"[{aliases}]"))
        last = f"b{index}"
    return "\n".join(lines)


BROKEN_YAML = (
    _bomb(True),
    _bomb(False),
    "a: &a [*a]",
    "image: &a {<<: *a}",
    "image: &a {max_tokens: *a}",
    "image: !!python/object/apply:os.system ['id']",
    "detect: {labels: !!set {a, b}}",
    "a: 2020-13-45",
    "detect: {labels: [2020-01-01]}",
    "image: {max_tokens: 64, max_tokens: 65}",
    "detect: {labels: [!!binary aGk=]}",
    f"image: {{max_tokens: {'9' * 5000}}}",
    f"image: {{max_tokens: 0x{'f' * 5000}}}",
    "sampling: {temperature: .nan}",
    "budget: {latency: .inf}",
    "image: {max_tokens: 64}\0",
    'detect: {labels: ["\\ud800"]}',
    'detect: {labels: ["\\x1b[31m"]}',
    'image: {"\\x1b[31mx": 1}',
    '"a\\nb": 1',
    f"a: {'{a: ' * 3000}",
    "".join(" " * i + "a:\n" for i in range(900)),
    "? [a, b]\n: 1",
    "null: 1",
    ".nan: 2",
    "true: {}",
    "a: 1\n---\nb: 2",
    "- a",
    "/**: {ros__parameters: {1: 2}}",
    "image: {? [1] : 2}",
    "tracker: {per_label: ['x: min_iou=.nan']}",
    f"tracker: {{per_label: ['x: min_iou={'9' * 5000}']}}",
    f"tracker: {{per_label: ['x: min_iou={'[' * 2000}']}}",
    "dialects: {x: {user: '{labels}', decimals: true}}",
    "dialects: {1: {}}",
    "dialects: {x: {user: '{labels}', 1: 2}}",
    "engine: {backend: openai}\nopenai: {url: 'http://[::1'}",
    "openai: {url: 'http://a:99999999'}",
    'model: {path: "a\\0b", mmproj: x}',
    'model: {path: "\\udcff"}',
    "%YAML 9.9\n---\na: 1",
    "names: 2020-13-45",
    f"names: {'[' * 5000}",
    "names: {0: a, 1: b}",
    "names: {a: b}",
    "names: ['<|im_end|>']",
)
LARGE_YAML = (
    "".join(f"a{i}: &a{i} 1\n" for i in range(20_000)),
    "a" * (1 << 21),
    f"image: {{max_tokens: 1{':1' * 100_000}}}",
    f"a: {'[' * 100_000}",
    f"dialects: {{x: {{user: '{'{labels}' * 100_000}'}}}}\ndetect: {{dialect: x, labels: [{'a' * 1000}]}}",
    f"detect: {{labels: [{','.join(f'l{i}' for i in range(5000))}]}}",
    f"detect: {{labels: [{'a' * 10**6}]}}",
)

PIN = {"revision": "0" * 40, "bytes": 3, "sha256": "0" * 64}
REGISTRY = {
    "licenses": {"open": {"title": "T", "notice": "N", "text": "https://example.org"}},
    "models": {
        "demo": {
            "repo": "some/repository",
            "license": "open",
            "settings": {"image.max_tokens": 64},
            "files": {"Q4_0": {"file": "a.gguf", **PIN}},
            "mmproj": {"Q8_0": {"file": "b/c.gguf", **PIN}},
        }
    },
}

STORED = {
    "model": {"path": "a.gguf", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
    "mmproj": {"path": "b.gguf", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
    "source": "x",
    "settings": {"image.max_tokens": 64},
}

HEAD = json.dumps({"format": "lfm_perception answers", "version": 2}) + "\n"

USAGE = {
    "image_tokens": 1,
    "text_tokens": 1,
    "answer_tokens": 1,
    "encode_s": 0.1,
    "prefill_s": 0.1,
    "decode_s": 0.1,
    "decode_calls": 3,
}

DETECTION = {
    "label": "person",
    "confidence": 0.9,
    "bbox": [0.1, 0.2, 0.3, 0.4],
    "bbox_std": [0.1, 0.1, 0.1, 0.1],
}

SCENE = {
    "version": 1,
    "stamp": {"sec": 1, "nanosec": 5},
    "frame_id": "camera",
    "width": 64,
    "height": 48,
    "objects": [
        {
            "track_id": 1,
            "label": "box",
            "confidence": 0.9,
            "bbox": [0.1, 0.2, 0.3, 0.4],
            "velocity": [0.1, 0.0],
            "velocity_std": [0.1, 0.1],
            "velocity_px": [1.0, 0.0],
            "velocity_std_px": [1.0, 1.0],
            "age_s": 1.0,
            "time_since_update_s": 0.0,
        }
    ],
    "detections": [DETECTION],
    "global_caption": "a box",
    "caption_age_s": 0.5,
    "truncated": False,
    "over_latency_budget": False,
    "rejects": {"no_box": 1},
    "usage": {"detect": USAGE, "caption": USAGE},
}

ANSWERS = (
    '[{"label": "person", "bbox": [0.1, 0.2, 0.3, 0.4]}, {"label": "box", "bbox": [0.5, 0.5, 0.9, 0.9]}]',
    '[{"image_id": 0, "bbox_2d": [100, 200, 300, 400], "label": "person"}]',
    '```json\n{"person": [[0.1, 0.2, 0.3, 0.4]]}\n```',
)

REPLY = {
    "id": "x",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '[{"label": "box", "bbox": [0.1, 0.2, 0.3, 0.4]}]'},
            "logprobs": {
                "content": [
                    {"token": '[{"label": "box", ', "logprob": -0.1, "bytes": None},
                    {"token": '"bbox": [0.1, 0.2, 0.3, 0.4]}]', "logprob": -0.2, "bytes": list(b'"bbox": [')},
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 30, "completion_tokens": 20},
    "data": [{"id": "name"}],
}

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [3, 2, 10, 10]},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "box"}],
}

YOLO = "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.1\n"

TRUTH = "1,1,10,10,20,30,1,1,1.0\n2,1,11,10,20,30,1,1,1.0\n"

SEQUENCE = "[Sequence]\nname=x\nframeRate=25\nimWidth=640\nimHeight=480\nseqLength=2\n"

WORDS = (
    "de:\n  labels: {person: Person, box: Kiste}\nno:\n  wording: 'Finn {labels}.'\n",
    "no: {wording: 'Finn {labels}.', labels: {box: boks}}\n",
)

REPORT = {
    "kind": "bench",
    "inferences_hz": 3.0,
    "latency_s": {"inference": {"p50": 1.0, "p95": 2.0}},
    "settings": {"image.max_tokens": 64, "detect.labels": ["a", "b"]},
    "versions": {"x": "1"},
    "machine": {"processor": "p", "cores": 2},
    "camera": "640x480",
    "model": {"demo": True},
    "languages": {"de": {"f1": 0.5}},
    "figures": {"by_label": {"box": {"ap_50": 0.5}}},
}

NAMES = ("\ufeffperson\r\nbox", "\n\nbox", "person\n<|im_end|>", "\x1b[31m\nbox", "a" * 10**6)

SET = ("image.max_tokens=64", "detect.labels=[a, b]", "budget.latency=0.5")

BROKEN_SET = ("image.max_tokens=2020-13-45", "image.max_tokens=" + "9" * 5000, "x", "=", "\0=1")

FOLDER_NAMES = "names: [person, box]\n"

ERROR = {"error": {"message": "no response_format", "code": 3}}
