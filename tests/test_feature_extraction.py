"""Feature extraction: nothing moves but the head, and features are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks import features, store
from tasks.config import Pipeline
from tasks.learning import loop, prediction
from tasks.learning.applications.ner import Ner
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.applications.translation import Translation
from tasks.learning.batches import Stream, Streams
from tasks.learning.contracts import Example
from tasks.learning.learner import Learner, load_learner, new_learner
from tasks.learning.paradigms.feature_extraction import FeatureExtraction
from tasks.streams import Encoder
from tests.tiny import reviews, score

PARADIGM = FeatureExtraction(kind="feature_extraction")
NER = Ner(kind="ner", labels=("thing",))
SENTENCES = [
    {"tokens": "the phone was bad", "tags": "O B-thing O O"},
    {"tokens": "a great camera", "tags": "O O B-thing"},
    {"tokens": "so so", "tags": "O O"},
]


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, {"reviews": classification, "ner": NER})


def kept(learner: Learner, task: str, rows: Any) -> list[Example]:
    examples = learner.tasks[task].encode(rows, learner.tokenizer)
    return features.attached(learner, task, examples, learner.backbone.digest(), "transfer")


def train(learner: Learner, examples: list[Example], folder: Path, steps: int = 200) -> None:
    stream = Stream("reviews", examples, pad_id=0, budget=256, seed=1)
    schedule = loop.Schedule(steps=steps, learning_rate=1e-2, precision="float32")
    loop.train(learner, PARADIGM, PARADIGM.plan(Streams(stream)), schedule, folder)


WRITTEN = [
    {"text": "the phone was bad", "translation": "bad phone"},
    {"text": "a camera", "translation": "a great camera it is"},
    {"text": "the phone was bad", "translation": "so"},
]


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_kept_features_of_what_is_written(kind: str, request: pytest.FixtureRequest) -> None:
    """The same loss as afresh; another reply to the same text is another feature."""
    from tasks.learning.batches import collate

    application = Translation(kind="translation", maximum_new_tokens=8)
    torch.manual_seed(0)
    made = new_learner(request.getfixturevalue(kind), {"written": application}).eval()
    for rows in (WRITTEN[:2], WRITTEN[1:]):
        examples = application.encode(rows, made.tokenizer)
        fresh = made("written", collate(examples, 0))
        again = made("written", collate(kept(made, "written", rows), 0))
        torch.testing.assert_close(again.loss, fresh.loss, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again.features, fresh.features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("task", "rows"), [("reviews", reviews(10)), ("ner", SENTENCES)])
def test_kept_features_equal_fresh_ones(learner: Learner, task: str, rows: Any) -> None:
    """Loss and logits are what the backbone itself would give, padding included."""
    from tasks.learning.batches import collate

    learner.eval()
    examples = learner.tasks[task].encode(rows, learner.tokenizer)
    fresh = learner(task, collate(examples, 0))
    again = learner(task, collate(kept(learner, task, rows), 0))
    torch.testing.assert_close(again.loss, fresh.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.features, fresh.features, atol=1e-5, rtol=1e-5)


def test_computed_once(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training finds them on disk; another text, or backbone, does not."""
    first = kept(learner, "reviews", reviews(10))
    calls: list[Any] = []
    monkeypatch.setattr(features, "write", lambda *arguments: calls.append(arguments))
    again = kept(learner, "reviews", reviews(10))
    assert calls == []
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one["represented"], other["represented"])
    with pytest.raises(FileNotFoundError):
        kept(learner, "reviews", reviews(12))
    with torch.no_grad():
        next(learner.backbone.parameters()).add_(1.0)
    with pytest.raises(FileNotFoundError):
        kept(learner, "reviews", reviews(10))
    assert len(calls) == 2


def test_only_the_head_moves(learner: Learner, tmp_path: Path) -> None:
    """The backbone is the same to the bit afterwards, and is never asked."""
    examples = kept(learner, "reviews", reviews(32))
    before = {n: t.clone() for n, t in learner.backbone.state_dict().items()}
    head = learner.heads["reviews"].weight.detach().clone()
    learner.backbone.encode = None  # type: ignore[assignment, method-assign]
    train(learner, examples, tmp_path, steps=3)
    after = learner.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head, learner.heads["reviews"].weight)


def test_learns(learner: Learner, tmp_path: Path) -> None:
    """A head on the features of a random network tells good from bad better than chance."""
    train(learner, kept(learner, "reviews", reviews(64)), tmp_path)
    assert score(learner, "reviews", reviews(60, seed=5))["accuracy"] > 0.7


def test_a_damaged_file_is_made_again(learner: Learner, home: Path) -> None:
    """Features are a stage output like any other."""
    first = kept(learner, "reviews", reviews(10))[0]["represented"].copy()
    (path,) = home.glob("artifacts/features/*/features.npy")
    path.write_bytes(b"damaged")
    assert np.array_equal(kept(learner, "reviews", reviews(10))[0]["represented"], first)
    assert store.intact(path.parent)


def test_a_head_with_a_hidden_layer(backbone: Path, tmp_path: Path) -> None:
    """It is trained on the kept features alone, saved and loaded like a linear one."""
    application = TextClassification(
        kind="text_classification", labels=("negative", "positive"), hidden=64
    )
    torch.manual_seed(0)
    learner = new_learner(backbone, {"reviews": application})
    assert [type(layer).__name__ for layer in learner.heads["reviews"]] == [
        "Linear", "GELU", "Linear",
    ]  # fmt: skip
    rows = reviews(40)
    before = {n: p.detach().clone() for n, p in learner.backbone.named_parameters()}
    train(learner, kept(learner, "reviews", rows), tmp_path)
    assert all(p.equal(before[n]) for n, p in learner.backbone.named_parameters())
    assert score(learner, "reviews", rows)["accuracy"] > 0.9
    learner.save(tmp_path / "learner")
    served = load_learner(tmp_path / "learner", {"reviews": application})
    assert prediction.predict(served, "reviews", rows) == prediction.predict(
        learner, "reviews", rows
    )


def test_no_rows_have_no_features(
    home: Path, backbone: Path, classification: TextClassification
) -> None:
    """A training need have neither validation rows nor text to watch: nothing is kept for none."""
    pipeline = Pipeline.model_validate(
        {
            "application": {"kind": "text_classification", "labels": ("negative", "positive")},
            "backbone": {"path": "backbone"},
            "sources": {"movies": {"path": "movies.jsonl"}},
            "target": {"products": {"path": "products.jsonl"}},
            "paradigm": {"kind": "feature_extraction"},
            "promotion": {"model": "toy"},
        }
    )
    learner = new_learner(backbone, {"text_classification": classification})
    encoder = Encoder(pipeline, learner, 256, "digest", "transfer")
    assert encoder.examples("text_classification", []) == []
    assert not (home / "artifacts").exists()
    found = encoder.examples("text_classification", reviews(4))
    assert all("represented" in example for example in found)
