from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tasks.learning import loop
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.batches import Stream, Together
from tasks.learning.contracts import IGNORED
from tasks.learning.learner import Learner, load_learner, new_learner
from tasks.learning.objectives.masked import MaskedLanguageModelling, mask_tokens
from tests.tiny import reviews

MASK = 103
VOCABULARY = 2000


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, {"reviews": classification})


def text(learner: Learner, count: int = 64) -> Stream:
    application = learner.tasks["reviews"]
    examples = application.encode(reviews(count), learner.tokenizer, supervised=False)
    return Stream("reviews", examples, pad_id=0, budget=256, seed=1)


def pretrain(learner: Learner, folder: Path, steps: int = 10, share: float = 0.15) -> list[float]:
    losses: list[float] = []
    schedule = loop.Schedule(steps=steps, learning_rate=5e-3, precision="float32")
    loop.train(
        learner,
        MaskedLanguageModelling(share),
        Together(target=text(learner)),
        schedule,
        folder,
        report=lambda step, steps, values: losses.append(values["loss"]),
    )
    return losses


def scripted(values: list[list[float]]) -> Callable[..., torch.Tensor]:
    left = iter(values)
    return lambda *_, **__: torch.tensor([next(left)])


def test_literal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen tokens become [MASK], another token, or stay; each is a label, the others are not."""
    choice, fate = [0.0, 0.1, 0.1, 0.1, 0.2, 0.0], [0.0, 0.79, 0.95, 0.85, 0.0, 0.0]
    monkeypatch.setattr(torch, "rand", scripted([choice, fate]))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.full((1, 6), 555))
    ids = torch.tensor([[101, 2307, 3185, 2001, 2204, 102]])
    maskable = torch.tensor([[False, True, True, True, True, False]])
    masked, labels = mask_tokens(ids, maskable, MASK, VOCABULARY, 0.15)
    assert masked.tolist() == [[101, 103, 555, 2001, 2204, 102]]
    assert labels.tolist() == [[-100, 2307, 3185, 2001, -100, -100]]
    assert ids.tolist() == [[101, 2307, 3185, 2001, 2204, 102]]


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_shares(share: float) -> None:
    """`share` of the tokens is chosen; 80% of those masked, 10% replaced, 10% left."""
    torch.manual_seed(0)
    ids = torch.randint(200, VOCABULARY, (200, 500))
    masked, labels = mask_tokens(
        ids, torch.ones_like(ids, dtype=torch.bool), MASK, VOCABULARY, share
    )
    chosen = labels != IGNORED
    assert float(chosen.float().mean()) == pytest.approx(share, abs=0.006)  # 5 sd of 1e5 draws
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    became = masked[chosen]
    assert float((became == MASK).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((became == ids[chosen]).float().mean()) == pytest.approx(0.1, abs=0.015)


def test_special_tokens_are_never_chosen(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither [CLS], [SEP] nor padding is masked or scored, even when every token is to be."""
    paradigm = MaskedLanguageModelling(0.999999)
    paradigm.prepare(learner)
    seen: dict[str, torch.Tensor] = {}
    real = learner.backbone.encode

    def encode(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        seen["ids"] = input_ids
        return real(input_ids, attention_mask)

    def vocabulary(states: torch.Tensor) -> torch.Tensor:
        seen["scored"] = torch.tensor(len(states))
        return real_vocabulary(states)

    monkeypatch.setattr(learner.backbone, "encode", encode)
    real_vocabulary = learner.extras["vocabulary"].forward
    monkeypatch.setattr(learner.extras["vocabulary"], "forward", vocabulary)
    task, batch = text(learner).task, text(learner).batch(0)
    paradigm.gradients(learner, {"target": (task, batch)}, torch.Tensor.backward)
    special = torch.isin(batch["input_ids"], torch.tensor(learner.tokenizer.all_special_ids))
    assert special.sum() > (batch["attention_mask"] == 0).sum() > 0
    assert torch.equal(seen["ids"][special], batch["input_ids"][special])
    assert int(seen["scored"]) == int((~special).sum())


def test_the_loss_falls(learner: Learner, tmp_path: Path) -> None:
    """From ln 60 nats, not knowing anything, to what the toy language leaves open."""
    losses = pretrain(learner, tmp_path, steps=80)
    assert sum(losses[:3]) / 3 == pytest.approx(4.1, abs=0.5)
    assert sum(losses[-10:]) / 10 < 2.8


def test_nothing_chosen(learner: Learner, tmp_path: Path) -> None:
    """A batch in which no token happens to be chosen gives loss 0 and no NaN."""
    losses = pretrain(learner, tmp_path, steps=2, share=1e-12)
    assert losses == [0.0, 0.0]
    assert all(bool(p.isfinite().all()) for p in learner.parameters())


def test_what_changes_and_what_is_kept(
    learner: Learner, tmp_path: Path, classification: TextClassification
) -> None:
    """The backbone changes, the untrained heads do not, and no vocabulary head is saved."""
    before = {name: t.clone() for name, t in learner.state_dict().items()}
    pretrain(learner, tmp_path)
    learner.save(tmp_path / "learner")
    again = load_learner(tmp_path / "learner", {"reviews": classification})
    after = again.state_dict()
    assert after.keys() == before.keys()
    same = {name: torch.equal(after[name], before[name]) for name in before}
    assert all(same[name] for name in same if name.startswith("heads."))
    assert not any(same[name] for name in same if name.endswith("dense.weight"))
    assert not same["backbone.model.embeddings.word_embeddings.weight"]
    saved = [
        key for file in (tmp_path / "learner").rglob("*.safetensors") for key in load_file(file)
    ]
    assert len(saved) == len(before)
    assert not [key for key in saved if "vocabulary" in key or "transform" in key]


def test_tied_to_the_embeddings(learner: Learner) -> None:
    """The output matrix is the input embeddings themselves, and is not counted twice."""
    before = {id(p) for p in learner.parameters()}
    MaskedLanguageModelling(0.15).prepare(learner)
    added = {n: p.shape for n, p in learner.named_parameters() if id(p) not in before}
    prefix = "extras.vocabulary."
    assert added == {
        f"{prefix}bias": (60,),
        f"{prefix}transform.0.weight": (32, 32),
        f"{prefix}transform.0.bias": (32,),
        f"{prefix}transform.2.weight": (32,),
        f"{prefix}transform.2.bias": (32,),
    }
    learner.extras["vocabulary"](torch.ones(1, 32)).sum().backward()
    assert learner.backbone.model.get_input_embeddings().weight.grad is not None


def test_narrow_embeddings_are_refused(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings that are narrower than the states cannot be the output matrix."""
    narrow = nn.Embedding(60, 16)
    monkeypatch.setattr(learner.backbone.model, "get_input_embeddings", lambda: narrow)
    with pytest.raises(ValueError, match="narrower than its states"):
        MaskedLanguageModelling(0.15).prepare(learner)
