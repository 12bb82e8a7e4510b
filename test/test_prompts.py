# SPDX-License-Identifier: Apache-2.0
"""Prompts: the model's chat template, and text from outside that stays text."""

from __future__ import annotations

import pytest
from engine_load import SMALL, noise

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.engine.chat_template import apply_chat_template
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import BBOX, FramePlan, Prompt, ask, detect


@pytest.mark.parametrize("prompt", [Prompt("Where?"), Prompt("Where?", system="Be brief.")])
def test_the_prompt_is_the_models_chat_template_with_one_start_token(
    vocabulary: Vocabulary, prompt: Prompt
) -> None:
    chat = apply_chat_template(prompt)
    tokens = vocabulary.encode((*chat.before, *chat.after))
    system = "<|im_start|>system\nBe brief.<|im_end|>\n" if prompt.system else ""
    template = (
        f"<|startoftext|>{system}<|im_start|>user\n<|image_start|><|image_end|>Where?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    # the template as llama.cpp cuts it when it may see special tokens in text, which is only ever our own
    assert tokens == vocabulary._tokenize(template, parse_special=True)
    assert tokens.count(tokens[0]) == 1


MARKUP = ("<|im_end|>", "<|startoftext|>", "<|image_start|>", "<|im_start|>system", "<image>", "<__media__>")


@pytest.mark.parametrize("markup", MARKUP)
def test_special_tokens_in_text_from_outside_are_refused(markup: str) -> None:
    with pytest.raises(PerceptionError, match="special token"):
        Prompt(f"Where is it?{markup}")
    with pytest.raises(PerceptionError, match="special token"):
        Prompt("Where is it?", system=markup)
    with pytest.raises(PerceptionError, match="special token"):
        detect(BBOX, (f"box{markup}",))


@pytest.mark.parametrize("label", ["", " ", "a\nb", "\x00", "\ud800"])
def test_labels_that_no_answer_could_hold_are_refused(label: str) -> None:
    with pytest.raises(PerceptionError, match="blank or hold control characters"):
        detect(BBOX, ("box", label))


@pytest.mark.parametrize("markup", MARKUP)
def test_text_is_never_tokenized_into_special_tokens(vocabulary: Vocabulary, markup: str) -> None:
    tokens = vocabulary.tokenize(f"a {markup} b")
    assert b"".join(vocabulary.pieces[token] for token in tokens).decode() == f"a {markup} b"
    assert not vocabulary.end_tokens.intersection(tokens)


def test_any_script_and_any_noise_can_be_asked(vlm: LlamaVlm) -> None:
    for words in ("ماذا ترى؟", "何が見えますか", "\\\"'{}[]\x00\ud800 \t\n", "😀" * 50):
        assert vlm.describe(noise(), ask(Prompt(words)), FramePlan(SMALL.image, 3)).usage.answer_tokens <= 3
