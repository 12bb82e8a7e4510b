# SPDX-License-Identifier: Apache-2.0
"""Mistakes on the command line: each ends with one sentence that names the value and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lfm_perception.cli import main
from lfm_perception.text import MAX_SENTENCE

FILES = {
    "broken.yaml": "image: [",
    "list.yaml": "- 1",
    "unknown.yaml": "image: {max_token: 64}",
    "range.yaml": "image: {max_tokens: 100000}",
    "kind.yaml": "image: {max_tokens: many}",
    "twice.yaml": "image: {max_tokens: 64}\nimage.max_tokens: 32",
    "old.yaml": "gate: {duty: 0.5}",
    "two_nodes.yaml": "a: {ros__parameters: {}}\nb: {ros__parameters: {}}",
    "text.png": "no image",
    "text.mp4": "no video",
    "text.mcap": "no bag",
    "text.gguf": "no model",
    "mmproj-text.gguf": "no model",
    "out/summary.json": "{}",
    "file": "",
    "empty/.keep": "",
}
"""Files of the folder in which the mistakes are made."""

MISTAKES = {
    "run missing.mp4": "there is no missing.mp4: give",
    "run missing/": "there is no missing/: give",
    "run missing/*.jpg": "there is no missing/*.jpg: give",
    "run empty": "folder empty holds neither images",
    "run text.png": "image text.png cannot be decoded",
    "run text.mp4": "text.mp4",
    "run text.mcap": "text.mcap",
    "run file": "file",
    "run 9": "camera 9 cannot be opened",
    "run /dev/video77": "camera /dev/video77 cannot be opened",
    "run rtsp://127.0.0.1:9/x": "rtsp://127.0.0.1:9/x cannot be decoded",
    "run http://127.0.0.1:9/x.mp4": "http://127.0.0.1:9/x.mp4 cannot be decoded",
    "run ftp://127.0.0.1/x.mp4": "there is no ftp://127.0.0.1/x.mp4: give",
    "run demo --out out": "out holds the results of an earlier run: add --force",
    "run demo --out file/out": "cannot write to file/out: not a directory",
    "run demo --settings missing.yaml": "missing.yaml: cannot be read: no such file",
    "run demo --settings empty": "empty: cannot be read: is a directory",
    "run demo --settings broken.yaml": "broken.yaml: ",
    "run demo --settings list.yaml": "list.yaml: settings are groups of names and values",
    "run demo --settings unknown.yaml": "did you mean 'image.max_tokens'?",
    "run demo --settings range.yaml": "image.max_tokens must be a whole number from 1 to 1024",
    "run demo --settings kind.yaml": "got 'many'",
    "run demo --settings twice.yaml": "image.max_tokens is given twice",
    "run demo --settings old.yaml": "gate.duty is now called inference.duty_cycle",
    "run demo --settings two_nodes.yaml": "expected the parameters of one node",
    "run demo --set image.max_token=64": "did you mean 'image.max_tokens'?",
    "run demo --set image.max_tokens=0": "from 1 to 1024",
    "run demo --set image.max_tokens=64.5": "a whole number from 1 to 1024",
    "run demo --set image.min_tokens=512": "image.min_tokens 512 is above image.max_tokens 256",
    "run demo --set detect.dialect=coco": "detect.dialect must be one of",
    "run demo --set engine.backend=vllm": "engine.backend must be one of llama, openai, recorded",
    "run demo --set engine.backend=recorded": "recorded.path is empty: name the file",
    "run demo --set tracker.algorithm=sort": "choose one of kalman",
    "run demo --set tracker.per_label=[person]": "tracker.per_label takes",
    "run demo --set openai.key_variable=HOME": "begins with LFM_PERCEPTION_",
    "run demo --set model.sha256=abc": "model.sha256 must be 64 hexadecimal digits",
    "run demo --set model.path=text.gguf": "give both, or neither for the demo model",
    "run demo --set engine.n_ctx=256": "engine.n_ctx",
    "run demo --set budget.tokens=3": "budget.tokens 3 is too small",
    "run demo --set detect.closed=true --labels ,": "name the labels to allow",
    "run demo --labels person,person": "'person' more than once",
    "run demo --labels <|im_end|>": "special token",
    "run demo --model missing.gguf": "there is no model missing.gguf: give the path",
    "run demo --model text.gguf": "text.gguf",
    "run demo --model LFM2.5-VL-450M": "is not on this computer",
    "run demo --mmproj mmproj-text.gguf": "give both, or neither",
    "run demo --conf 50": "detect.min_score must be a number from 0 to 1",
    "run demo --device tpu": "--device must be one of cpu, gpu, cuda",
    "run demo --topic /image": "a topic (/image) can be chosen in a bag only",
    "run demo --rate 5": "a rate (5) can be given to images only",
    "record missing.mp4 --out answers.jsonl": "there is no missing.mp4",
    "replay missing.mcap --out new": "missing.mcap",
    "replay text.mcap --out new": "text.mcap",
    "bench --settings missing.yaml --out new": "missing.yaml: cannot be read",
    "eval detection missing.json --out new": "missing.json",
    "eval detection file --out new": "file",
    "eval compare missing.json missing.json": "missing.json: cannot be read",
    "eval compare broken.yaml broken.yaml": "broken.yaml",
    "models verify nothing": "nothing",
}
"""Commands, and a part of the sentence."""

USAGE = (
    "rum demo",
    "run",
    "run demo --frames none",
    "run demo --every 0",
    "run demo --seconds 0",
    "run demo --seed -1",
    "run demo --set image.max_tokens",
    "run demo --label person",
    "eval",
    "eval compare one.json",
    "models",
    "models remove",
)
"""Commands that are used wrongly: exit code 2 and the usage."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `FILES`."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    return tmp_path


def ended(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit code and what was written on standard error."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main(words.split(" "))
    return end.value.code, capfd.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_sentence_with_the_way_out(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = ended(words, capfd)
    assert code == 1, err
    beside = ("frames/s", "lfm-perception: warning: ")  # progress, and what is known before the mistake
    said = [line for line in err.splitlines() if line.strip() and not any(each in line for each in beside)]
    assert len(said) == 1, err
    assert said[0].startswith("lfm-perception: ")
    assert MISTAKES[words] in said[0]
    assert len(said[0]) <= MAX_SENTENCE + len("lfm-perception: ")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", USAGE)
def test_wrong_usage_exits_with_2(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = ended(words, capfd)
    assert code == 2, err
    assert "Traceback" not in err
