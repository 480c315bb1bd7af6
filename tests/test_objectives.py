"""Pretraining of networks that write: each next word, and missing spans. For masked words see
test_masked.py."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import source
from tasks.config import Pretraining
from tasks.learning import loop
from tasks.learning.applications.translation import Translation
from tasks.learning.batches import Stream, Together, collate
from tasks.learning.contracts import Unfit
from tasks.learning.learner import Learner, new_learner
from tasks.learning.objectives.base import Unlabelled, encoded
from tasks.learning.objectives.causal import CausalLanguageModelling
from tasks.learning.objectives.denoising import SENTINELS, Denoising, corrupted, parts, spans
from tests.tiny import IDS, reviews

END = IDS["[SEP]"]
TEXTS = [row["text"] for row in reviews(48)]
KINDS = {"causal": CausalLanguageModelling(), "seq2seq": Denoising(0.3)}


def learner(folder: Path, *, marked: bool = True) -> Learner:
    """A tiny network; the vocabulary has sentinels in the place of words that no text has."""
    torch.manual_seed(0)
    made = new_learner(folder, {"translation": Translation(kind="translation")})
    if marked:
        made.tokenizer.add_tokens(list(SENTINELS[:8]))
        made.backbone.model.resize_token_embeddings(len(made.tokenizer))
    return made


def losses(
    learner: Learner,
    objective: Unlabelled,
    folder: Path,
    steps: int = 60,
    killed: int | None = None,
) -> list[float]:
    """Of each logged step; `killed` is one at which training ends with an error."""
    stream = Stream(
        "translation",
        encoded(TEXTS, learner, 32, ended=True),
        pad_id=0,
        budget=256,
        seed=1,
    )
    found: list[float] = []

    def report(step: int, steps: int, values: dict[str, float]) -> None:
        found.append(values["loss"])
        if step == killed:
            raise KeyboardInterrupt

    loop.train(
        learner,
        objective,
        Together(target=stream),
        loop.Schedule(steps=steps, learning_rate=5e-3, precision="float32", checkpoint_every=4),
        folder,
        report=report,
    )
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Well below what knowing nothing but the words' number costs, and no head moves."""
    made = learner(request.getfixturevalue(kind))
    heads = {name: value.clone() for name, value in made.heads.state_dict().items()}
    found = losses(made, KINDS[kind], tmp_path)
    assert found[0] > 3.5
    assert sum(found[-5:]) / 5 < found[0] - 1
    assert all(value.equal(heads[name]) for name, value in made.heads.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the same weights, and the same spans, as one left alone."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    folder = request.getfixturevalue(kind)
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    alone = learner(folder)
    losses(alone, KINDS[kind], tmp_path / "alone", 12)
    with pytest.raises(KeyboardInterrupt):
        losses(learner(folder), KINDS[kind], tmp_path / "killed", 12, killed=7)
    resumed = learner(folder)
    torch.manual_seed(99)
    losses(resumed, KINDS[kind], tmp_path / "killed", 12)
    expected = alone.state_dict()
    assert all(value.equal(expected[name]) for name, value in resumed.state_dict().items())


def test_causal_loss_is_the_networks_own(causal: Path) -> None:
    """The mean over all tokens of all texts but the first ones, padding left out."""
    made = learner(causal, marked=False).eval()
    batch = collate(encoded(TEXTS[:5], made, 32, ended=True), 0)
    with torch.no_grad():
        found = float(CausalLanguageModelling().loss(made, batch))
        total, tokens = 0.0, 0
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            text = ids[mask.bool()].unsqueeze(0)
            assert text[0, -1] == END
            own = made.backbone.network(input_ids=text, labels=text).loss
            total += float(own) * (text.shape[1] - 1)
            tokens += text.shape[1] - 1
    assert found == pytest.approx(total / tokens, rel=1e-4)
    CausalLanguageModelling().loss(made, batch).backward()
    layers = made.backbone.layers()
    assert all(float(p.grad.abs().sum()) > 0 for layer in layers for p in layer.parameters())


def test_corrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of Raffel et al. 2020, figure 2, with numbers for words."""
    monkeypatch.setattr("tasks.learning.objectives.denoising.spans", lambda *_: [(2, 4), (8, 9)])
    found = corrupted([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, END], 0.15, [90, 91, 92], END)
    assert found == {
        "input_ids": [1, 2, 90, 5, 6, 7, 8, 91, 10, END],
        "labels": [90, 3, 4, 91, 9, 92, END],
    }
    # With a sentinel less there is no last one; with one, the second span stays.
    found = corrupted([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.15, [90, 91], END)
    assert found["labels"] == [90, 3, 4, 91, 9, END]
    found = corrupted([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.15, [90], END)
    assert found == {"input_ids": [1, 2, 90, 5, 6, 7, 8, 9, 10, END], "labels": [90, 3, 4, END]}


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 40, 500])
@pytest.mark.parametrize("share", [0.01, 0.15, 0.5, 0.99])
def test_spans(length: int, share: float) -> None:
    """Apart from each other, in order, of so many tokens in all; something always stays."""
    torch.manual_seed(length)
    found = spans(length, share, 100)
    places = [place for start, stop in found for place in range(start, stop)]
    assert places == sorted(set(places))
    assert all(after[0] > before[1] for before, after in pairwise(found))
    if length > 1:
        missing = min(max(round(length * share), 1), length - 1)
        assert len(places) == missing
        assert len(found) == max(1, min(round(missing / 3), length - missing, 100))
        assert found[0][0] > 0
    else:
        assert found == []


def test_more_spans_than_sentinels() -> None:
    """They are longer then: as much is missing, up to the end of the text."""
    torch.manual_seed(0)
    found = corrupted(list(range(100, 1000)), 0.5, [90, 91, 92, 93], END)
    assert len(found["labels"]) == 450 + 4 + 1  # four spans, each behind its sentinel, and the end
    assert len(found["input_ids"]) == 450 + 4 + 1


def test_what_is_written_has_places(seq2seq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is longer than the network can write the beginning is."""
    made = learner(seq2seq)
    monkeypatch.setattr(type(made.backbone), "maximum_written", 12)
    batch = collate(encoded([" ".join(["so"] * 30)], made, 40, ended=True), 0)
    lengths: list[int] = []
    real = made.backbone.decode

    def decode(ids: Any, mask: Any, labels: Any) -> Any:
        lengths.append(labels.shape[1])
        return real(ids, mask, labels)

    monkeypatch.setattr(made.backbone, "decode", decode)
    Denoising(0.9).loss(made, batch)
    assert lengths == [12]


def test_networks_that_write_otherwise(causal: Path) -> None:
    """A step between states and vocabulary would be left out, so they are refused."""
    from transformers import GraniteConfig, GraniteForCausalLM

    from tasks.learning.backbone import Backbone

    made = learner(causal, marked=False)
    config = GraniteConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    made.backbone = Backbone(GraniteForCausalLM(config))
    with pytest.raises(Unfit, match="granite does not write"):
        CausalLanguageModelling().prepare(made)
    unfinished = learner(causal, marked=False)
    unfinished.backbone.untrained = ["lm_head.weight"]
    with pytest.raises(Unfit, match="does not write"):
        CausalLanguageModelling().prepare(unfinished)


def test_parts() -> None:
    """Every way to cut four into two is drawn."""
    torch.manual_seed(0)
    assert {tuple(parts(4, 2)) for _ in range(100)} == {(1, 3), (2, 2), (3, 1)}
    assert parts(3, 1) == [3]


def test_what_goes_with_what(backbone: Path, seq2seq: Path, causal: Path) -> None:
    """Each objective is of one kind of network, and spans need sentinels."""
    folders = {"encoder": backbone, "seq2seq": seq2seq, "causal": causal}
    for name in ("mlm", "denoising", "causal"):
        objective = source.objective(Pretraining(objective=name))  # type: ignore[arg-type]
        for kind, folder in folders.items():
            made = learner(folder, marked=kind == "seq2seq")
            if kind == objective.kind:
                objective.prepare(made)
                continue
            with pytest.raises(Unfit, match=f"for {objective.kind} networks, and this one is"):
                objective.prepare(made)
    with pytest.raises(Unfit, match="<extra_id_0>"):
        Denoising(0.15).prepare(learner(seq2seq, marked=False))


def test_causal_takes_no_share() -> None:
    """A setting that would be ignored."""
    with pytest.raises(ValueError, match="remove mask"):
        Pretraining(objective="causal", mask=0.3)
    assert Pretraining(objective="denoising", mask=0.3).mask == 0.3


def test_ends(causal: Path) -> None:
    """One, within the tokens that a text may have."""
    made: Any = learner(causal, marked=False)
    found = encoded(["the movie was great", "so"], made, 4, ended=True)
    ids = [[IDS[word] for word in text.split()] for text in ("the movie was", "so")]
    assert [one["input_ids"] for one in found] == [[*ids[0], END], [*ids[1], END]]
    (bare,) = encoded(["so"], made, 4, ended=False)
    assert bare["input_ids"] == ids[1]
