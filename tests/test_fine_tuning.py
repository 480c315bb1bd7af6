from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tasks.learning import loop
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Stream, Streams, Together, collate
from tasks.learning.learner import Learner, load_learner, new_learner
from tasks.learning.paradigms.fine_tuning import FineTuning
from tasks.learning.paradigms.tuning import Lora
from tests.tiny import reviews, write_backbone

LAYERS = 3


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("tiny"), layers=LAYERS)


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, {"reviews": classification})


def fine_tuning(**options: Any) -> FineTuning:
    return FineTuning(kind="fine_tuning", **options)


def target(learner: Learner, count: int = 32) -> Stream:
    examples = learner.tasks["reviews"].encode(reviews(count), learner.tokenizer)
    return Stream("reviews", examples, pad_id=0, budget=128, seed=1)


def train(learner: Learner, paradigm: FineTuning, folder: Path, steps: int = 3) -> None:
    schedule = loop.Schedule(steps=steps, learning_rate=1e-3, precision="float32")
    loop.train(learner, paradigm, Together(target=target(learner)), schedule, folder)


def part(name: str) -> str:
    """embeddings, 0, 1, 2 or head: where a parameter belongs."""
    if "embeddings" in name:
        return "embeddings"
    return name.split(".layer.")[1][0] if ".layer." in name else "head"


def moved(learner: Learner, before: dict[str, torch.Tensor]) -> dict[str, set[bool]]:
    """Part -> whether its parameters changed; {True} all, {False} none."""
    parts: dict[str, set[bool]] = {}
    for name, parameter in learner.named_parameters():
        change = not torch.equal(parameter, before[name])
        if change or not is_inert(name):
            parts.setdefault(part(name), set()).add(change)
    return parts


def is_inert(name: str) -> bool:
    """Softmax does not feel a shift of all keys, so their bias has no gradient but rounding."""
    return name.endswith("attention.self.key.bias")


def parameters(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.named_parameters()}


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        (0, set()),
        (1, {"embeddings", "0"}),
        (2, {"embeddings", "0", "1"}),
        (LAYERS, {"embeddings", "0", "1", "2"}),
    ],
)
def test_a_step_moves_what_it_should(
    learner: Learner, tmp_path: Path, freeze: int, still: set[str]
) -> None:
    """Frozen layers and the embeddings below them do not move at all; all else does."""
    before = parameters(learner)
    train(learner, fine_tuning(freeze=freeze), tmp_path)
    found = moved(learner, before)
    assert found == {name: {name not in still} for name in ("embeddings", "0", "1", "2", "head")}


def test_freeze_too_many(learner: Learner) -> None:
    """Freezing more layers than there are is refused with both numbers."""
    with pytest.raises(ValueError, match=r"freeze is 4, but the backbone has 3 layers"):
        fine_tuning(freeze=4).prepare(learner)


def free(learner: Learner, paradigm: FineTuning, progress: float) -> list[str]:
    """The parts that learn at this point, top first."""
    paradigm.advance(learner, progress)
    state: dict[str, set[bool]] = {}
    for name, parameter in learner.named_parameters():
        state.setdefault(part(name), set()).add(parameter.requires_grad)
    assert all(len(values) == 1 for values in state.values())
    return [p for p in ("head", "2", "1", "0", "embeddings") if state[p] == {True}]


def test_gradual_unfreezing(learner: Learner) -> None:
    """The head alone at first, one part more at a time from the top, all from half-way on."""
    paradigm = fine_tuning(gradual_unfreezing=True)
    paradigm.prepare(learner)
    seen = [free(learner, paradigm, step / 100) for step in range(100)]
    top_first = ["head", "2", "1", "0", "embeddings"]
    assert seen[0] == ["head"]
    assert all(parts == top_first for parts in seen[50:])
    for earlier, later in pairwise(seen):
        assert later == top_first[: len(later)]
        assert len(later) - len(earlier) in (0, 1)


def test_gradual_unfreezing_above_frozen_layers(learner: Learner) -> None:
    """What is frozen stays so to the end."""
    paradigm = fine_tuning(gradual_unfreezing=True, freeze=1)
    paradigm.prepare(learner)
    assert free(learner, paradigm, 0.0) == ["head"]
    assert free(learner, paradigm, 0.5) == free(learner, paradigm, 0.99) == ["head", "2", "1"]


def test_gradual_unfreezing_trains(learner: Learner, tmp_path: Path) -> None:
    """What is freed half-way has moved by the end; before, it has not."""
    before = parameters(learner)
    steps = 20
    paradigm = fine_tuning(gradual_unfreezing=True)
    schedule = loop.Schedule(steps=steps, learning_rate=1e-3, precision="float32")
    history = []

    def report(step: int, *_: object) -> None:
        history.append({name for name, change in moved(learner, before).items() if any(change)})

    loop.train(
        learner, paradigm, Together(target=target(learner)), schedule, tmp_path, report=report
    )
    assert history[0] == {"head"}
    assert history[-1] == {"head", "2", "1", "0", "embeddings"}


def test_layer_rates(learner: Learner) -> None:
    """η, η, η·d, η·d², η·d³ for the head, the layers from the top, and the embeddings."""
    names = {id(p): part(name) for name, p in learner.named_parameters()}
    groups = fine_tuning(layer_decay=0.5).parameter_groups(learner, 0.8)
    rates = {names[id(p)]: g["lr"] for g in groups for p in g["params"]}
    expected = {"head": 0.8, "2": 0.8, "1": 0.4, "0": 0.2, "embeddings": 0.1}
    assert rates == pytest.approx(expected)
    assert sum(len(g["params"]) for g in groups) == len(list(learner.parameters()))


@pytest.mark.parametrize("options", [{"freeze": 2}, {"lora": Lora(rank=2)}, {"freeze": LAYERS}])
def test_groups_hold_what_learns_once(learner: Learner, options: dict[str, Any]) -> None:
    """Every trainable parameter is in exactly one group, and no frozen one in any."""
    paradigm = fine_tuning(**options)
    paradigm.prepare(learner)
    grouped = [id(p) for g in paradigm.parameter_groups(learner, 1.0) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in learner.parameters() if p.requires_grad)


def test_rates_reach_the_optimizer(learner: Learner, tmp_path: Path) -> None:
    """A smaller rate is a smaller step: Adam's first moves each weight by about its rate."""
    before = parameters(learner)
    paradigm = fine_tuning(layer_decay=0.5)
    schedule = loop.Schedule(
        steps=1, learning_rate=1e-3, warmup=0, weight_decay=0, precision="float32"
    )
    loop.train(learner, paradigm, Together(target=target(learner)), schedule, tmp_path)
    largest: dict[str, float] = {}
    for name, parameter in learner.named_parameters():
        step = float((parameter - before[name]).detach().abs().max())
        largest[part(name)] = max(step, largest.get(part(name), 0.0))
    expected = {"head": 1e-3, "2": 1e-3, "1": 5e-4, "0": 2.5e-4, "embeddings": 1.25e-4}
    assert largest == pytest.approx(expected, rel=1e-2)


def test_lora_trains_adapters_and_head(learner: Learner, tmp_path: Path) -> None:
    """Only adapters and the head change; before the merge the backbone's own weights do not."""
    paradigm = fine_tuning(lora=Lora(rank=2, alpha=4))
    own = {name: p.detach().clone() for name, p in learner.backbone.model.named_parameters()}
    learner_head = learner.heads["reviews"].weight.detach().clone()
    seen: dict[str, Any] = {}

    def report(step: int, *_: object) -> None:
        state = learner.backbone.model.state_dict()
        seen["own"] = all(
            torch.equal(value, own[plain(name)])
            for name, value in state.items()
            if "lora_" not in name
        )
        seen["B"] = [float(v.abs().sum()) for name, v in state.items() if "lora_B" in name]
        learns = [name for name, p in learner.named_parameters() if p.requires_grad]
        seen["learns"] = {"lora" if "lora_" in name else part(name) for name in learns}

    schedule = loop.Schedule(steps=3, learning_rate=1e-3, precision="float32")
    loop.train(
        learner, paradigm, Together(target=target(learner)), schedule, tmp_path, report=report
    )
    assert seen["own"]
    assert seen["learns"] == {"lora", "head"}
    assert len(seen["B"]) == 6 * LAYERS  # query, key, value, output, up and down of each layer
    assert all(size > 0 for size in seen["B"])
    assert not torch.equal(learner.heads["reviews"].weight, learner_head)


def plain(name: str) -> str:
    """A parameter's name without what peft puts around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def test_lora_merged_equals_unmerged(learner: Learner, tmp_path: Path) -> None:
    """Merging changes no output, and what is saved is a plain model that gives the same."""
    paradigm = fine_tuning(lora=Lora(rank=4, alpha=8))
    batch = collate(learner.tasks["reviews"].encode(reviews(8), learner.tokenizer), 0)
    untrained = logits(learner, batch)
    unmerged = {}

    def report(step: int, *_: object) -> None:
        unmerged["logits"] = logits(learner, batch)

    schedule = loop.Schedule(steps=5, learning_rate=1e-2, precision="float32")
    loop.train(
        learner, paradigm, Together(target=target(learner)), schedule, tmp_path, report=report
    )
    merged = logits(learner, batch)
    assert not torch.allclose(merged, untrained, atol=1e-2)
    torch.testing.assert_close(merged, unmerged["logits"], rtol=0, atol=1e-5)

    learner.save(tmp_path / "learner")
    keys = load_file(tmp_path / "learner" / "backbone" / "model.safetensors")
    assert not [k for k in keys if "lora" in k or "base_" in k]
    assert not (tmp_path / "learner" / "backbone" / "adapter_config.json").exists()
    again = load_learner(tmp_path / "learner", learner.tasks)
    torch.testing.assert_close(logits(again, batch), merged, rtol=0, atol=1e-6)


@torch.no_grad()
def logits(learner: Learner, batch: Any) -> torch.Tensor:
    was = learner.training
    learner.eval()
    found = learner("reviews", batch).logits
    learner.train(was)
    assert isinstance(found, torch.Tensor)
    return found


def test_lora_starts_where_the_backbone_is(learner: Learner) -> None:
    """B = 0 at first: before any step adapters change nothing."""
    batch = collate(learner.tasks["reviews"].encode(reviews(8), learner.tokenizer), 0)
    before = logits(learner, batch)
    fine_tuning(lora=Lora(rank=4)).prepare(learner)
    torch.testing.assert_close(logits(learner, batch), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "option", [{"freeze": 1}, {"gradual_unfreezing": True}, {"layer_decay": 0.9}]
)
def test_lora_goes_alone(option: dict[str, Any]) -> None:
    """LoRA freezes every layer, so options about layers are refused beside it."""
    with pytest.raises(ValidationError, match="lora keeps every layer"):
        fine_tuning(lora=Lora(), **option)


def test_gradients_equal_finite_differences(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """.grad = ∇ L_target: central differences of the loss agree to four digits."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # as losses are taken
    learner.double().eval()
    paradigm = fine_tuning()
    paradigm.prepare(learner)
    batch = collate(learner.tasks["reviews"].encode(reviews(8), learner.tokenizer), 0)
    draw = {"target": ("reviews", batch)}

    def loss() -> float:
        with torch.no_grad():
            return learner("reviews", batch).loss.item()

    values = paradigm.gradients(learner, draw, torch.Tensor.backward)
    assert values["loss"] == pytest.approx(loss())
    head, top = learner.heads["reviews"], learner.backbone.layers()[-1]
    checked = [*head.parameters(), top.output.dense.weight]
    for parameter in checked:
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in (0, flat.numel() // 2, flat.numel() - 1):
            kept, step = flat[i].item(), 1e-4
            flat[i] = kept + step
            above = loss()
            flat[i] = kept - step
            below = loss()
            flat[i] = kept
            assert (above - below) / (2 * step) == pytest.approx(gradient[i].item(), rel=1e-4)
    assert float(head.weight.grad.abs().max()) > 1e-2


def test_draws_are_the_targets(learner: Learner) -> None:
    """Each step learns from one batch of the target, the same for the same step."""
    stream = target(learner)
    draw = fine_tuning().plan(Streams(stream)).draw(5)
    assert set(draw) == {"target"}
    task, batch = draw["target"]
    assert task == "reviews"
    assert torch.equal(batch["input_ids"], stream.batch(5)["input_ids"])
