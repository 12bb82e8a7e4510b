# SPDX-License-Identifier: Apache-2.0
"""Mistakes on the command line: each ends with one sentence that names the value and the way out."""

from __future__ import annotations

import os
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
    "number.yaml": "42",
    "tab.yaml": "image:\n\tmax_tokens: 3\n",
    "object.yaml": "!!python/object/apply:os.system ['id']",
    "blank.yaml": "image:\n  max_tokens:\n",
    "infinite.yaml": "budget: {latency: .inf}",
    "dialect.yaml": "dialects: {mine: {user: find}}",
    "question.yaml": "questions: {standing: [helmet]}",
    "answers.jsonl": "no answers",
    "ros1.bag": "#ROSBAG V2.0\n",
    "text.db3": "no bag",
    "bag/metadata.yaml": "rosbag2_bagfile_information: 5",
    "text.svg": "<svg/>",
    "coco/instances.json": '{"images": [], "annotations": [], "categories": []}',
    "sequence/a/seqinfo.ini": "[Sequence]",
    "sequence/a/gt/gt.txt": "",
    "rules.yaml": "rules: {a: {when: {label: person, inside: dok}}}",
    "detection.json": '{"kind": "detection"}',
    "bench.json": '{"kind": "bench"}',
    "empty/.keep": "",
}
"""Files of the folder in which the mistakes are made."""

MISTAKES = {
    "run missing.mp4": "there is no missing.mp4: give",
    "run missing/": "there is no missing/: give",
    "run missing/*.jpg": "there is no missing/*.jpg: give",
    "run empty": "folder empty holds neither images",
    "run pipe": "pipe is no file that can be read",
    "run loop": "loop is no file that can be read",
    "run text.png": "image text.png cannot be decoded",
    "run text.mp4": "text.mp4",
    "run text.mcap": "text.mcap",
    "run file": "file",
    "run 9": "camera 9 cannot be opened",
    "run /dev/video77": "camera /dev/video77 cannot be opened",
    "run rtsp://u:key@127.0.0.1:9/x": "stream rtsp://127.0.0.1:9/x cannot be opened (Connection refused): ",
    "run http://127.0.0.1:9/x.mp4": "check its address, and that its server runs",
    "run ftp://127.0.0.1/x.mp4": "there is no ftp://127.0.0.1/x.mp4: give",
    "run demo --out out": "out holds the results of an earlier run: add --force",
    "run demo --out file/out": "cannot write to file/out: not a directory",
    "run demo --out loop/out": "cannot write to loop/out: too many levels of symbolic links",
    "run demo --settings pipe": "pipe: cannot be read: not a regular file",
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
    "run demo --set engine.backend=recorded --set recorded.path=~no.one/x": "~no.one/x: no such file",
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
    "run ": "the source is blank: give demo, a video",
    "run ros1.bag": "it is a bag of ROS 1: convert it with rosbags-convert",
    "run text.db3": "it is damaged or no rosbag2",
    "run bag": "ros2 bag reindex makes its metadata.yaml anew",
    "run text.svg": "convert it to H.264 first",
    "run file:///tmp/x.mp4": "there is no file:///tmp/x.mp4: give",
    "run /image_raw": "there is no /image_raw: give",
    "run demo --settings number.yaml": "settings are groups of names and values",
    "run demo --settings tab.yaml": "not valid YAML, line 2, column 1",
    "run demo --settings object.yaml": "not valid YAML, line 1, column 1",
    "run demo --settings blank.yaml": "a whole number from 1 to 1024 tokens, got nothing",
    "run demo --settings infinite.yaml": "budget.latency must be a number from 0 to 600 s, got inf",
    "run demo --settings dialect.yaml": "dialect 'mine': 'user' must contain {labels}",
    "run demo --settings question.yaml": "a mapping with 'name' and 'question'",
    "run demo --set =5": "unknown parameter '': known are model.path, ",
    "run demo --set image=5": "'image' is a group of parameters: write 'image.",
    "run demo --set tokens=5": "did you mean 'budget.tokens'?",
    "run demo --set detect.labels=person": "detect.labels must be a list of texts",
    "run demo --set fovea.mode=always": "fovea.mode must be one of off, on, auto",
    "run demo --set openai.base_url=http://x": "did you mean 'openai.url'?",
    "run demo --set engine.backend=openai --set openai.url=localhost:8080": "an address like http://host",
    "run demo --set engine.backend=recorded --set recorded.path=answers.jsonl": "lfm-perception record",
    "run demo --set lora.path=missing.gguf": "cannot open missing.gguf: no such file",
    "run demo --model LFM2.5-VL-45OM": "models list shows the names",
    "run demo --conf -0.1": "detect.min_score must be a number from 0 to 1, got -0.1",
    "ask missing.png why?": "there is no missing.png: give",
    "ask demo ": "a question must not be blank",
    "ask demo many? --number ten": "--number takes a range such as 0..10, got 'ten'",
    "ask demo many? --number 10..0": "its minimum below its maximum, got 10 to 0",
    "ask demo which? --choice red": "a choice has 2 to 100 options, got 1",
    "ask demo which? --choice red,red": "the option 'red' is there more than once",
    "ask demo {no": "a question that begins with { must be JSON",
    'ask demo {"question":"x?","type":"maybe"}': "must be one of yes_no, choice, number, text",
    "ask node:a-b why?": "'a-b' cannot name a node: write node:/cam1/perception",
    "mcp demo --set image.max_tokens=0": "from 1 to 1024",
    "mcp node:a-b": "'a-b' cannot name a node",
    "record demo --out empty": "empty cannot be written: it is no file but",
    "record demo --out missing/answers.jsonl": "name a file in a folder that exists",
    "record text.png --out text.png": "text.png is the source: choose another file",
    "replay ros1.bag --out new": "it is a bag of ROS 1",
    "replay demo --out new": "bag demo cannot be read: there is no such file or folder",
    "memory search door": "$LFM_PERCEPTION_MEMORY_KEY is not set: export its key",
    "memory info --path missing.db --set memory.encrypted=false": "there is no memory",
    "memory info --path number.yaml --set memory.encrypted=false": "is encrypted, or no memory",
    "memory search --since soon": "'soon' is no time: give an age such as 10m",
    "memory search --kind picture": "one of caption, event, count, got 'picture'",
    "memory delete --before 2026-13-01": "'2026-13-01' is no time",
    "rules check missing.yaml": "missing.yaml: cannot be read: no such file",
    "rules check number.yaml": "a rule file must be a mapping, got 42",
    "rules check rules.yaml": "rules.yaml: 1 entry cannot be used, see above",
    "rules replay missing.mp4 --rules rules.yaml": "there is no missing.mp4: give",
    "run demo --rules missing.yaml": "missing.yaml: cannot be read: no such file",
    "run demo --set rules.file=broken.yaml": "broken.yaml: not valid YAML",
    "doctor --settings missing.yaml": "missing.yaml: cannot be read",
    "eval questions --out file": "cannot write to file: file exists",
    "eval commands --out file": "cannot write to file: file exists",
    "eval commands --set engine.backend=openai": "takes no commands: choose llama",
    "eval demo --out file": "cannot write to file: file exists",
    "eval tracking missing": "there is no missing: give tud, demo, synthetic or a folder",
    "eval tracking sequence": "must give frameRate, imWidth and imHeight",
    "eval fovea missing": "there is no missing: give demo, a folder",
    "eval fovea empty": "empty holds no sequence: a sequence has seqinfo.ini",
    "eval wordings empty": "has no labels (COCO: ",
    "eval detection coco --out new": "instances.json list no images",
    "eval compare bench.json detection.json": "give two of a kind",
    "models pull nothing": "see lfm-perception models list",
    "models settings LFM2.5-VL-450M": "lfm-perception models pull LFM2.5-VL-450M",
    "models path nothing": "models list shows the names",
    "models add mine missing.gguf missing.gguf": "cannot open missing.gguf: no such file",
    "models add mine text.gguf text.gguf": "text.gguf is not a GGUF file",
    "models add LFM2.5-VL-450M text.gguf text.gguf": "choose another name",
    "demo --out file": "cannot write to file: file exists",
    "record missing.mp4 --out answers.jsonl": "there is no missing.mp4",
    "record demo --out pipe": "pipe cannot be written: it is no file but",
    "record demo --out loop": "loop cannot be written: it is no file but",
    "replay missing.mcap --out new": "missing.mcap",
    "replay text.mcap --out new": "text.mcap",
    "bench --settings missing.yaml --out new": "missing.yaml: cannot be read",
    "eval detection missing.json --out new": "missing.json",
    "eval detection file --out new": "file",
    "eval tracking synthetic --out file/out": "cannot write to file/out: not a directory",
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
    "run demo --gpu",
    "run demo --conf high",
    "run demo --frames 0",
    "ask demo",
    "ask demo is? --yes-no --choice a,b",
    "ask node is? --set image.max_tokens=5",
    "record demo",
    "memory",
    "memory delete",
    "memory delete --all --before 1h",
    "rules",
    "rules replay demo",
    "replay text.mcap --out new --pace -1",
    "replay text.mcap --out new --node p --set image.max_tokens=5",
    "bench --out new --size 640",
    "eval demo --trial none",
    "eval questions --scenes 0",
    "eval tracking synthetic --protocol sparse-late",
    "eval fovea demo --tokens 0",
    "eval detection empty --out new --words words.yaml",
    "eval wordings empty --dialect none",
)
"""Commands that are used wrongly: exit code 2 and the usage."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `FILES`."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
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
