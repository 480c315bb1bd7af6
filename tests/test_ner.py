"""Named-entity recognition: words and sub-words, spans, scores against seqeval's definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from tasks.learning import prediction
from tasks.learning.applications import bio
from tasks.learning.applications.ner import Ner, word_numbers, word_places
from tasks.learning.applications.text_classification import TextClassification
from tasks.learning.backbone import load_tokenizer
from tasks.learning.batches import collate
from tasks.learning.contracts import Application, Prediction, Row
from tasks.learning.learner import Learner, new_learner
from tests.tiny import IDS, score, write_backbone

MENTION = Ner(kind="ner", labels=("art", "thing"))
ROWS = [
    {"tokens": "the great movie was bad", "tags": "O B-art I-art O O"},
    {"tokens": "phone and camera", "tags": "B-thing O B-thing"},
    {"tokens": "it is so so", "tags": "O O O O"},
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like the tiny one, with a word that falls into two sub-words."""
    folder = write_backbone(tmp_path_factory.mktemp("tiny"))
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary[IDS["?"]] = "##phone"
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return folder


@pytest.fixture
def learner(backbone: Path) -> Learner:
    torch.manual_seed(0)
    return new_learner(backbone, {"ner": MENTION})


def said(*spans: tuple[int, int, str]) -> Prediction:
    return {"spans": [{"start": s, "end": e, "label": n, "confidence": 1.0} for s, e, n in spans]}


def test_encode(backbone: Path) -> None:
    """The first sub-word of a word carries its number and tag; the rest is not scored."""
    rows = [{"tokens": "the cameraphone was", "tags": "O B-thing I-thing"}]
    the, camera, phone, was = (IDS[word] for word in ("the", "camera", "?", "was"))
    assert MENTION.encode(rows, load_tokenizer(backbone)) == [
        {
            "input_ids": [2, the, camera, phone, was, 3],
            "words": [0, 1, 2, 0, 3, 0],
            "labels": [-100, 0, 3, -100, 4, -100],
        }
    ]


def test_encode_repairs(backbone: Path) -> None:
    """I that continues nothing is learned as B."""
    rows = [{"tokens": "the phone", "tags": "O I-thing"}]
    assert MENTION.encode(rows, load_tokenizer(backbone))[0]["labels"] == [-100, 0, 3, -100]


def test_encode_request(backbone: Path) -> None:
    """Without tokens the text is cut into words, punctuation apart; labels are not looked at."""
    (example,) = MENTION.encode(
        [{"text": "great movie!"}], load_tokenizer(backbone), supervised=False
    )
    assert example == {"input_ids": [2, 5, 21, 58, 3], "words": [0, 1, 2, 3, 0]}
    assert MENTION.encode([], load_tokenizer(backbone)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Merkel left.", ["Merkel", "left", "."]),
        ("don't pay 1,000 (now)", ["don't", "pay", "1,000", "(", "now", ")"]),
        ("我爱Paris", ["我", "爱", "Paris"]),
        ("U.S. firm, 10:30.", ["U.S.", "firm", ",", "10:30", "."]),
        ("Merkel(CDU)/Paris", ["Merkel", "(", "CDU", ")", "/", "Paris"]),
        ("He left.Coca-Cola", ["He", "left", ".", "Coca-Cola"]),
        ("3：NBA", ["3", "：", "NBA"]),
    ],
)
def test_words_of_a_request(text: str, words: list[str]) -> None:
    """Words as people write them, closing punctuation and unspaced characters apart."""
    assert [text[start:end] for start, end in word_places(text)] == words


def test_word_numbers() -> None:
    """A number where a word starts, also for a word that repeats none before it."""
    assert word_numbers([None, 0, 0, 1, 3, None]) == [0, 1, 0, 2, 4, 0]


def test_words_beyond_the_limit_are_outside(learner: Learner) -> None:
    """A cut sentence still gives a prediction, and none beyond the cut."""
    short = MENTION.model_copy(update={"maximum_tokens": 4})
    learner.tasks["ner"] = short
    (found,) = prediction.predict(learner, "ner", [{"tokens": "phone and camera and phone"}])
    assert all(span["end"] <= 2 for span in found["spans"])
    long, whole = short.encode(
        [{"tokens": "phone and camera"}, {"tokens": "phone and"}],
        learner.tokenizer,
        supervised=False,
    )
    assert long["cut"]
    assert "cut" not in whole


def test_batched_equals_unbatched(learner: Learner) -> None:
    """Padding changes neither spans nor confidence."""
    together = prediction.predict(learner, "ner", ROWS)
    for row, found in zip(ROWS, together, strict=True):
        (alone,) = prediction.predict(learner, "ner", [row])
        assert [s["label"] for s in alone["spans"]] == [s["label"] for s in found["spans"]]
        for one, other in zip(alone["spans"], found["spans"], strict=True):
            assert (one["start"], one["end"]) == (other["start"], other["end"])
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)


def test_loss_is_over_words(learner: Learner) -> None:
    """The mean over words of -log p(tag), special tokens and later sub-words left out."""
    examples = MENTION.encode(ROWS, learner.tokenizer)
    batch = collate(examples, 0)
    learner.eval()
    output = learner("ner", batch)
    assert output.logits is not None
    assert output.loss is not None
    logs = output.logits.log_softmax(-1)
    picked = [
        logs[i, j, label]
        for i, example in enumerate(examples)
        for j, label in enumerate(example["labels"])  # type: ignore[arg-type]
        if label >= 0
    ]
    assert len(picked) == 12
    assert output.loss.item() == pytest.approx(-torch.stack(picked).mean().item(), abs=1e-5)
    assert output.features.shape == (3, 32)


def test_learns(learner: Learner) -> None:
    """A few steps on three sentences are enough to find their entities again."""
    batch = collate(MENTION.encode(ROWS, learner.tokenizer), 0)
    optimizer = torch.optim.Adam(learner.parameters(), lr=5e-3)
    learner.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = learner("ner", batch).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
    assert score(learner, "ner", ROWS)["entity_f1"] == 1.0


def test_columns_give_places_in_characters() -> None:
    """An entity's text is the request's between its start and end."""
    row: Row = {"text": "Was  the (great movie) bad?"}
    (entity,) = MENTION.columns(row, said((3, 5, "art")))["entities"]
    assert entity["text"] == "great movie"
    assert row["text"][entity["start"] : entity["end"]] == "great movie"
    assert entity["label"] == "art"


def test_scores_by_hand() -> None:
    """Strict: one word too few, or another type, is wrong twice over."""
    predictions = [said((1, 2, "art")), said((0, 1, "art"), (2, 3, "thing")), said()]
    counts = MENTION.statistics(predictions, ROWS)
    assert counts.shape == (3, 6)
    scores = {name: float(value) for name, value in MENTION.scores(counts.sum(0)).items()}
    # right 1; predicted 3; true 3
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == pytest.approx(1 / 3)
    assert scores["entity_f1"] == pytest.approx(1 / 3)
    # art: 0 of 2 predicted and 1 true; thing: 1 of 1 predicted and 2 true
    assert scores["macro_f1"] == pytest.approx((0 + 2 / 3) / 2)
    assert MENTION.correct(predictions, ROWS).tolist() == [False, False, True]
    by_label = MENTION.by_label(counts.sum(0))
    assert by_label["thing"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "count": 2,
    }
    assert MENTION.confusion(counts.sum(0)) is None


def test_scores_agree_with_seqeval() -> None:
    """Micro F1 over random tags equals a count made independently, entity by entity."""
    generator = np.random.default_rng(3)
    names = ["O", "B-art", "I-art", "B-thing", "I-thing"]

    def entities(tags: list[str]) -> set[tuple[int, int, str]]:
        """IOB2 strict, written in another way: cut at each B and O."""
        found, start = set(), None
        for i, tag in enumerate([*tags, "O"]):
            goes_on = start is not None and tag == f"I-{tags[start][2:]}"
            if start is not None and not goes_on:
                found.add((start, i, tags[start][2:]))
                start = None
            if tag.startswith("B-"):
                start = i
        return found

    rows, predictions, right, predicted, true = [], [], 0, 0, 0
    for _ in range(100):
        gold, guess = (
            [names[i] for i in generator.choice(5, size=8, p=[0.4, 0.15, 0.15, 0.15, 0.15])]
            for _ in range(2)
        )
        gold, guess = bio.repaired(gold), bio.repaired(guess)
        rows.append({"tokens": " ".join("abcdefgh"), "tags": " ".join(gold)})
        predictions.append(said(*entities(guess)))
        right += len(entities(gold) & entities(guess))
        predicted += len(entities(guess))
        true += len(entities(gold))
    totals = MENTION.statistics(predictions, rows).sum(0)
    assert right > 0
    assert float(MENTION.scores(totals)["entity_f1"]) == pytest.approx(
        2 * right / (predicted + true)
    )


def test_the_floor_finds_nothing() -> None:
    """Who never reads the text answers that there is no entity."""
    answer, *_ = MENTION.trivial(ROWS, ROWS)
    assert answer == {"spans": []}
    scores = MENTION.scores(MENTION.statistics([answer] * 3, ROWS).sum(0))
    assert float(scores["entity_f1"]) == 0


def test_prediction_is_json(learner: Learner) -> None:
    """Plain numbers and strings only."""
    found = prediction.predict(learner, "ner", ROWS)
    assert json.loads(json.dumps(found)) == found


def test_a_head_inherits_the_tags_it_shares(backbone: Path) -> None:
    """O and the tags of `thing` start as the other task knows them; `art` stays as it was."""
    news = Ner(kind="ner", labels=("place", "thing"))
    learner = new_learner(backbone, {"ner": MENTION, "news": news})
    before = {n: p.detach().clone() for n, p in learner.heads["ner"].named_parameters()}
    learner.inherit("ner", "news")
    for name, found in learner.heads["ner"].named_parameters():
        theirs = dict(learner.heads["news"].named_parameters())[name]
        for i, tag in enumerate(MENTION.outputs):
            shared = tag in ("O", "B-thing", "I-thing")
            expected = theirs[news.outputs.index(tag)] if shared else before[name][i]
            assert found[i].equal(expected), (name, tag)
    assert found.requires_grad


@pytest.mark.parametrize(
    "other",
    [
        TextClassification(kind="text_classification", labels=("O", "B-thing")),
        Ner(kind="ner", labels=("thing",), hidden=8),
    ],
)
def test_what_a_head_cannot_inherit_from(backbone: Path, other: Application) -> None:
    """Another kind of application, whatever its labels are called; a head with a hidden layer."""
    learner = new_learner(backbone, {"ner": MENTION, "other": other})
    before = learner.heads["ner"].weight.detach().clone()
    learner.inherit("ner", "other")
    assert learner.heads["ner"].weight.equal(before)


def test_words_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    """RoBERTa's words have their blank in front, also where they come cut; after saving too."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [" the phone was bad"] * 9, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    trained.save_model(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    first = load_tokenizer(tmp_path)
    first.save_pretrained(tmp_path / "saved")
    for tokenizer in (first, load_tokenizer(tmp_path / "saved")):
        (example,) = MENTION.encode(
            [{"tokens": "the phone was bad", "tags": "O B-thing O O"}], tokenizer
        )
        words = tokenizer.convert_ids_to_tokens(example["input_ids"])
        assert words == ["<s>", "Ġthe", "Ġphone", "Ġwas", "Ġbad", "</s>"]
        assert example["words"] == [0, 1, 2, 3, 4, 0]
