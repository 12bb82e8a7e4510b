# SPDX-License-Identifier: Apache-2.0
"""The training of the demo model: what a step reads and what it learns. Needs the `train` extra."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("gguf")

from demo_model import tokenizer as vocabulary  # noqa: E402
from demo_model.batches import IMAGE_TURN, Run, make_batch, scene, start_of_image, turns  # noqa: E402
from demo_model.export import load_checkpoint, load_files  # noqa: E402
from demo_model.losses import Trainee, losses  # noqa: E402
from demo_model.network import LanguageModel, Shape, grown  # noqa: E402
from demo_model.release import average  # noqa: E402
from demo_model.train import loosen, rendered, train  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from lfm_perception.commands import TOOLS, tool_list  # noqa: E402

RUN = Run(100, 1, scale=4.0, lessons=0.5, questions=3, commands=4, peak=1e-3, processes=1, start="")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return vocabulary.build()


def test_texts_that_go_on_from_a_memory_are_read_as_whole_texts() -> None:
    torch.manual_seed(0)
    model = LanguageModel(Shape())
    beginnings, ends = 0.3 * torch.randn(2, 7, 192), 0.3 * torch.randn(6, 5, 192)
    start = torch.tensor([0, 1, 1, 0, 0, 1])
    with torch.no_grad():
        whole = model(torch.cat((beginnings[start], ends), 1))[:, 7:]
        assert torch.allclose(model.after(model.remember(beginnings), start, 7, ends), whole, atol=1e-5)


def test_only_answers_are_targets(tokenizer: Tokenizer) -> None:
    pairs = [(1, "Which colour is the forklift?", "green"), (0, "Any box?", "Yes")]
    asked = turns(tokenizer, IMAGE_TURN, pairs)
    assert asked.order == [1, 0]
    assert asked.start.tolist() == [0, 1]
    for row, index in enumerate(asked.order):
        answer = asked.targets[row][asked.targets[row] >= 0].tolist()
        assert answer[-1] == vocabulary.IM_END
        assert tokenizer.decode(answer[:-1]) == pairs[index][2]
        places = (asked.targets[row] >= 0).nonzero()[:, 0]
        assert asked.ids[row, places + 1].tolist() == answer


def test_a_question_about_a_neighbour_is_taught_to_look_at_the_object_that_it_names(
    tokenizer: Tokenizer,
) -> None:
    run = replace(RUN, questions=12, scale=8.0)
    batch = make_batch(tokenizer, run, 0, 0.0, 0)
    looks = batch.questions.look
    asked = looks[looks >= 0]
    assert len(asked) > 5
    centres = {(row, cell) for row, cell, _ in batch.centres.tolist()}
    first = len(start_of_image(tokenizer))
    rows = batch.questions.start[looks >= 0].tolist()
    assert {(row, look - first) for row, look in zip(rows, asked.tolist(), strict=True)} <= centres
    trainee = Trainee(Shape(tower_layers=1), tokenizer)
    optimizer = torch.optim.Adam(trainee.parameters(), 1e-3)
    missed = []
    for _ in range(30):
        terms = losses(trainee, batch, language=True, width=2.0)
        missed.append(float(terms["look"].detach()))
        optimizer.zero_grad()
        terms["look"].backward()
        optimizer.step()
    assert missed[-1] < 0.7 * missed[0]


def test_the_pieces_of_tool_lists_and_answers_are_whole_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == vocabulary.VOCABULARY
    for text in ("Yes", "No", "8", "nothing", "brown", "person", "left"):
        assert len(tokenizer.encode(text, add_special_tokens=False).ids) == 1
    assert len(tokenizer.encode(tool_list(list(TOOLS)), add_special_tokens=False).ids) < 600


def test_a_step_teaches_boxes_questions_and_commands(tokenizer: Tokenizer) -> None:
    trainee = Trainee(Shape(tower_layers=1), tokenizer)
    for step in (0, 1):
        batch = make_batch(tokenizer, RUN, step, 0.0, 0)
        assert len(batch.images) == 4
        assert len(batch.ids) == 2
        assert 8 <= len(batch.questions.ids) <= 12  # scenes of nothing have fewer
        assert len(batch.commands.ids) == 4 * step
        terms = losses(trainee, batch, language=True, width=2.0)
        assert ("commands" in terms) == bool(step)
        torch.stack(list(terms.values())).sum().backward()
    learned = (trainee.model, trainee.centre_attribute, trainee.patch_head)
    assert all(parameter.grad is not None for part in learned for parameter in part.parameters())
    settling = losses(trainee, batch, language=True, width=2.0, settling=True)
    assert not {"questions", "commands"} & set(settling)


def test_batches_that_are_made_ahead_are_the_same() -> None:
    run = replace(RUN, steps=5, scale=2.0)
    ahead, here = (list(rendered(replace(run, renderers=count), 2, 0)) for count in (1, 0))
    assert len(ahead) == len(here) == 3
    for first, second in zip(ahead, here, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.questions.ids, second.questions.ids)


def test_a_training_goes_on_where_it_was_left_and_its_model_can_be_loaded(tmp_path: Path) -> None:
    run = replace(RUN, steps=2, scale=2.0)
    train(run, tmp_path)
    train(replace(run, steps=3), tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert saved["step"] == 3
    model = load_checkpoint(tmp_path / "checkpoint.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved["trainee"][f"model.{name}"])


def test_files_tell_their_sizes_and_a_larger_network_computes_the_same(demo_model: tuple[Path, Path]) -> None:
    small = load_files(*demo_model)
    shape = small.shape
    assert shape.hidden == 192
    larger = replace(shape, layers=shape.layers + "ca", tower_layers=shape.tower_layers + 1)
    wider = replace(larger, feed_forward=shape.feed_forward + 64, tower_feed_forward=640)
    grew = grown(small, wider).eval()
    images = torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8)
    ids = torch.tensor([[vocabulary.BOS, *[vocabulary.IMAGE] * 6, 300, 400]] * 2)
    with torch.no_grad():
        read = [model.read(ids, model.see(images)[1], vocabulary.IMAGE) for model in (small, grew)]
    assert torch.allclose(*read, atol=1e-4)
    unseen = [grew.language.layers[-1].down.weight, grew.tower.layers[-1].out.weight]
    assert not any(weight.any() for weight in unseen)


def test_a_release_averages_a_training_with_what_it_began_from(demo_model: tuple[Path, Path]) -> None:
    start, trained = load_files(*demo_model), load_files(*demo_model)
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 1.0
    average(trained, start, share=0.25)
    for weight, began in zip(trained.parameters(), start.parameters(), strict=True):
        assert torch.allclose(weight, began + 0.25, atol=1e-5)


def test_only_tokens_that_were_never_met_are_loosened() -> None:
    count = len(vocabulary.PIECES)
    torch.manual_seed(0)
    far = torch.ones(192)
    met, never = torch.randn(50, 192), far + 0.1 * torch.randn(20 + count, 192)
    embedding = torch.cat((met, never))
    loosen(embedding)
    assert torch.equal(embedding[:50], met)
    assert torch.allclose(embedding[50:], 0.6 * never)


def test_scenes_of_the_training_have_the_size_that_was_asked_for() -> None:
    rng = random.Random(1)
    for _ in range(30):
        assert scene(rng, 256, 160).frame.image.shape == (160, 256, 3)
