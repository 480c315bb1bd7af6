from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from transformers import (
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLNetConfig,
    XLNetModel,
)

from tasks.learning import prediction
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.backbone import Backbone, load_backbone, load_tokenizer, masked_mean
from tasks.learning.batches import collate
from tasks.learning.contracts import Row
from tasks.learning.learner import Learner, load_learner, new_learner
from tasks.learning.paradigms import FineTuning
from tasks.learning.prediction import evaluating
from tests.tiny import IDS, reviews, score, write_backbone

TOPICS = ("art", "sport", "money", "never")
"""The last is neither expected nor predicted."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def learner(backbone: Path, classification: TextClassification) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, {"reviews": classification})


def test_encode(backbone: Path, classification: TextClassification) -> None:
    """Text becomes [CLS] … [SEP], a label its place among the labels."""
    rows = [
        {"text": "Great movie!", "label": "positive"},
        {"text": "awful unheard", "label": "negative"},
    ]
    great, movie, awful, mark = (IDS[word] for word in ("great", "movie", "awful", "!"))
    assert (great, movie, awful, mark) == (5, 21, 13, 58)
    assert classification.encode(rows, load_tokenizer(backbone)) == [
        {"input_ids": [2, 5, 21, 58, 3], "labels": 1},
        {"input_ids": [2, 13, 1, 3], "labels": 0},
    ]


def test_encode_unlabelled(backbone: Path, classification: TextClassification) -> None:
    """Without supervision labels are neither needed nor looked at."""
    tokenizer = load_tokenizer(backbone)
    rows = [{"text": "great"}, {"text": "awful", "label": "unheard of"}]
    assert classification.encode(rows, tokenizer, supervised=False) == [
        {"input_ids": [2, 5, 3]},
        {"input_ids": [2, 13, 3]},
    ]
    assert classification.encode([], tokenizer) == []


@pytest.mark.parametrize(
    ("limit", "expected"), [(3, [2, 5, 3]), (5, [2, 5, 21, 5, 3]), (6, [2, 5, 21, 5, 21, 3])]
)
def test_truncation(backbone: Path, limit: int, expected: list[int]) -> None:
    """A text is cut to `maximum_tokens`, special tokens counted and kept."""
    application = TextClassification(
        kind="text_classification", labels=("negative", "positive"), maximum_tokens=limit
    )
    rows = [{"text": "great movie great movie", "label": "positive"}]
    (example,) = application.encode(rows, load_tokenizer(backbone))
    assert example["input_ids"] == expected
    assert ("cut" in example) is (limit < 6)


def drawn(count: int, seed: int) -> tuple[TextClassification, list[str], list[str]]:
    """Random labels and predictions, the last label never among them."""
    application = TextClassification(kind="text_classification", labels=TOPICS)
    chance = np.random.default_rng(seed)
    true = chance.choice(TOPICS[:3], count, p=[0.7, 0.2, 0.1])
    guess = np.where(chance.random(count) < 0.6, true, chance.choice(TOPICS[:3], count))
    return application, true.tolist(), guess.tolist()


def rows_of(labels: list[str]) -> list[Row]:
    return [{"text": "", "label": label} for label in labels]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 7, 300])
def test_scores_are_scikit_learns(count: int, seed: int) -> None:
    """Macro F1 and accuracy equal scikit-learn's, with a class that is absent."""
    application, true, guess = drawn(count, seed)
    totals = application.statistics([{"label": g} for g in guess], rows_of(true)).sum(0)
    scores = application.scores(totals)
    expected = f1_score(true, guess, labels=TOPICS, average="macro", zero_division=0)
    assert scores["macro_f1"] == pytest.approx(expected, abs=1e-12)
    assert scores["accuracy"] == pytest.approx(accuracy_score(true, guess), abs=1e-12)


def test_statistics_sum_to_the_confusion() -> None:
    """Summed over rows, the statistics are the confusion matrix [true, predicted]."""
    application, true, guess = drawn(200, 0)
    statistics = application.statistics([{"label": g} for g in guess], rows_of(true))
    assert statistics.shape == (200, 16)
    expected = confusion_matrix(true, guess, labels=TOPICS)
    assert statistics.sum(0).reshape(4, 4).tolist() == expected.tolist()


def test_scores_of_many_resamples() -> None:
    """Scores of a stack of totals are the scores of each."""
    application, true, guess = drawn(200, 0)
    statistics = application.statistics([{"label": g} for g in guess], rows_of(true))
    totals = np.stack([statistics[:50].sum(0), statistics[50:].sum(0), statistics.sum(0)])
    stacked = application.scores(totals)
    for name in application.metrics:
        assert stacked[name].shape == (3,)
        assert stacked[name].tolist() == [float(application.scores(t)[name]) for t in totals]


def test_every_metric_is_scored() -> None:
    """The metrics a configuration may name are those that are computed; one of them decides."""
    application, true, guess = drawn(10, 0)
    totals = application.statistics([{"label": g} for g in guess], rows_of(true)).sum(0)
    assert set(application.scores(totals)) == set(application.metrics)
    assert application.metric in application.metrics


def test_correct(classification: TextClassification) -> None:
    """A prediction is right when its label is the row's."""
    found = [{"label": name} for name in ("negative", "positive", "positive")]
    rows = rows_of(["negative", "negative", "positive"])
    assert classification.correct(found, rows).tolist() == [True, False, True]


def test_the_floor_is_the_majority(classification: TextClassification) -> None:
    """Who never reads answers the most frequent label, with the labels' shares."""
    seen = rows_of(["positive", "positive", "negative", "positive"])
    found, again = classification.trivial(seen, rows_of(["negative", "negative"]))
    assert found == again == {"label": "positive", "probabilities": [0.25, 0.75]}
    assert classification.columns({"text": "great"}, found) == {
        "label": "positive",
        "probability_negative": 0.25,
        "probability_positive": 0.75,
    }


def test_loss_and_features(learner: Learner) -> None:
    """loss = -log p(label), mean over the batch; features are the mean over real tokens."""
    rows = reviews(6)
    application = learner.tasks["reviews"]
    batch = collate(application.encode(rows, learner.tokenizer), 0)
    with evaluating(learner):
        output = learner("reviews", batch)
        predicted = application.predict(learner, "reviews", batch)
    assert output.loss is not None
    picked = [
        p["probabilities"][application.labels.index(row["label"])]
        for p, row in zip(predicted, rows, strict=True)
    ]
    assert output.loss.item() == pytest.approx(-np.log(picked).mean(), rel=1e-5)
    assert output.features.shape == (6, 32)
    del batch["labels"]
    assert learner("reviews", batch).loss is None


def test_masked_mean() -> None:
    """Padding does not count, and a row without a real token is 0, not NaN."""
    states = torch.tensor([[[1.0], [3.0], [99.0]], [[9.0], [9.0], [9.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert masked_mean(states, mask).tolist() == [[2.0], [0.0]]


def test_batched_equals_unbatched(learner: Learner) -> None:
    """Padding never leaks: a text's probabilities do not depend on its company."""
    rows = [
        {"text": "great"},
        {"text": "the movie was very great and " * 20},
        {"text": "awful plot"},
        {"text": "boring " * 110},
        {"text": "a really lovely scene , was it not ?"},
    ]
    together = prediction.predict(learner, "reviews", rows)
    alone = [prediction.predict(learner, "reviews", [row])[0] for row in rows]
    for left, right in zip(together, alone, strict=True):
        assert left["probabilities"] == pytest.approx(right["probabilities"], abs=1e-5)
        assert left["label"] == right["label"]
    # The texts are told apart at all: otherwise the above would hold of any constant.
    assert np.ptp([p["probabilities"][0] for p in together]) > 1e-3


def test_predictions_keep_the_order(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rows are batched, prediction i belongs to row i; dropout is off, then on again."""
    learner.backbone.set_dropout(0.5)
    learner.train()
    rows = reviews(20)
    expected = [prediction.predict(learner, "reviews", [row])[0]["probabilities"] for row in rows]
    monkeypatch.setattr(prediction, "TOKENS_PER_BATCH", 40)
    found = prediction.predict(learner, "reviews", rows)
    for left, right in zip(found, expected, strict=True):
        assert left["probabilities"] == pytest.approx(right, abs=1e-5)
    assert learner.training
    assert prediction.predict(learner, "reviews", []) == []


def test_score(learner: Learner) -> None:
    """`score` is the application's scores of its predictions."""
    rows = reviews(20)
    labels = [p["label"] for p in prediction.predict(learner, "reviews", rows)]
    true = [row["label"] for row in rows]
    found = score(learner, "reviews", rows)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, labels))


def test_saved_and_loaded(learner: Learner, tmp_path: Path) -> None:
    """A saved learner predicts the same after loading, and holds nothing pickled."""
    learner.save(tmp_path / "learner")
    again = load_learner(tmp_path / "learner", learner.tasks)
    rows = reviews(8)
    expected = prediction.predict(learner, "reviews", rows)
    assert prediction.predict(again, "reviews", rows) == expected
    suffixes = {p.suffix for p in (tmp_path / "learner").rglob("*") if p.is_file()}
    assert suffixes == {".json", ".safetensors"}


def test_the_longest_input(backbone: Path) -> None:
    """As many tokens as there are places, and RoBERTa's start after that of its padding."""
    assert load_backbone(backbone).maximum_positions == 512
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(
        vocab_size=9, num_hidden_layers=1, max_position_embeddings=14, pad_token_id=1, **sizes
    )
    roberta = Backbone(RobertaModel(config, add_pooling_layer=False))
    assert roberta.maximum_positions == 12
    longest = torch.full((1, 12), 5)
    roberta.encode(longest, torch.ones_like(longest))
    with pytest.raises((IndexError, RuntimeError)):
        roberta.encode(torch.full((1, 13), 5), torch.ones(1, 13))
    xlnet = XLNetModel(XLNetConfig(vocab_size=9, d_model=8, n_layer=1, n_head=2, d_inner=8))
    assert Backbone(xlnet).maximum_positions is None


def test_a_modern_backbone() -> None:
    """Dropout that is a number of a module's own is set too; all layers frozen leave nothing."""
    config = ModernBertConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_dropout=0.5,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 0),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 1),
    )
    backbone = Backbone(ModernBertModel(config)).train()
    ids = torch.full((1, 6), 5)
    backbone.set_dropout(0.0)
    once, again = (backbone.encode(ids, torch.ones_like(ids)) for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    outside = {id(p) for p in backbone.outside()}
    names = [name for name, p in backbone.model.named_parameters() if id(p) in outside]
    assert {name.partition(".")[0] for name in names} == {"embeddings", "final_norm"}
    paradigm = FineTuning(kind="fine_tuning", layer_decay=0.5)
    learner = Learner(backbone, None, {})
    groups = paradigm.parameter_groups(learner, 1.0)
    trained = [id(p) for group in groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(learner.parameters()))
    FineTuning(kind="fine_tuning", freeze=2).prepare(learner)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_what_layers_share_is_frozen_with_them() -> None:
    """MPNet's relative positions are read by every layer: what a frozen one says stays."""
    config = MPNetConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    backbone = Backbone(MPNetModel(config, add_pooling_layer=False))
    FineTuning(kind="fine_tuning", freeze=1).prepare(Learner(backbone, None, {}))
    moving = {name for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert moving
    assert all(name.startswith("encoder.layer.1.") for name in moving)


def test_any_name_will_do_for_a_task(backbone: Path, tmp_path: Path) -> None:
    """Also one that torch's modules have a use for."""
    names = ("cpu", "train", "state_dict", "parameters", "T_destination")
    application = TextClassification(kind="text_classification", labels=("negative", "positive"))
    learner = new_learner(backbone, dict.fromkeys(names, application))
    batch = collate(application.encode(reviews(2), learner.tokenizer), 0)
    losses = {name: learner(name, batch).loss.detach() for name in names}
    assert len({float(loss) for loss in losses.values()}) == len(names)
    learner.save(tmp_path / "learner")
    assert "cpu.weight" in load_file(tmp_path / "learner" / "heads.safetensors")
    again = load_learner(tmp_path / "learner", learner.tasks)
    for name, loss in losses.items():
        torch.testing.assert_close(again(name, batch).loss.cpu(), loss)
