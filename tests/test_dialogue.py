"""Dialogue: turns become a conversation, and what is said is scored by words and by probability."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from flows.chat import converse, named
from tasks import comparison, ingest, predict, store
from tasks.config import Pipeline
from tasks.domain import Domain
from tasks.learning import prediction, serving
from tasks.learning.applications.dialogue import Dialogue
from tasks.learning.applications.generation import Sampling
from tasks.learning.applications.words import words as words_of
from tasks.learning.contracts import Row
from tasks.learning.learner import Learner, new_learner
from tasks.learning.streaming import stream
from tests.tiny import words

ROWS: list[Row] = [
    {"context": "A: the movie\nB: so good\nA: and the plot", "response": "it was dull"},
    {"context": "A: i saw it", "response": "very fine , was it not ?"},
]
TEMPLATE = (
    "{% for m in messages %}{{ {'user': 'the', 'assistant': 'a', 'system': 'an'}[m.role] }} "
    "{{ m.content }} {% endfor %}a"
)
"""A conversation in words that the tiny vocabulary has."""


def dialogue(**options: Any) -> Dialogue:
    return Dialogue(kind="dialogue", **{"maximum_new_tokens": 8, "beams": 1, **options})


def learner(folder: Path, application: Dialogue) -> Learner:
    torch.manual_seed(0)
    made = new_learner(folder, {"dialogue": application})
    for parameter in made.heads["dialogue"].parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def said(application: Dialogue, text: str) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in application.messages(text)]


def test_turns_by_name() -> None:
    """The speaker's turns are the model's own, without the name; other names stay."""
    found = said(dialogue(speaker="B", prefix="Be kind."), "A: hi\nC: ho\nB: well?\nA: bye")
    assert found == [
        ("system", "Be kind."),
        ("user", "A: hi\nC: ho"),
        ("assistant", "well?"),
        ("user", "A: bye"),
    ]


def test_turns_without_names() -> None:
    """Every second one, counted back from the last."""
    assert said(dialogue(), "well?\nyes\nand?\nno") == [
        ("assistant", "well?"),
        ("user", "yes"),
        ("assistant", "and?"),
        ("user", "no"),
    ]


def test_names_that_are_not_said() -> None:
    """A partner's name is taken off, for nobody says it in a chat; blank turns are none."""
    application = dialogue(speaker="B", partner="A")
    assert said(application, "A: hi\n \nB: well?\nC: ho") == [
        ("user", "hi"),
        ("assistant", "well?"),
        ("user", "C: ho"),
    ]
    assert said(dialogue(), "hi\n\noh") == [("assistant", "hi"), ("user", "oh")]


def test_a_speaker_who_never_spoke() -> None:
    """Its name is most likely misspelt; contexts of one turn say nothing."""
    rows = [{"context": "USER: hi\nSYSTEM: ho\nUSER: so", "response": "no", "split": None}]
    assert list(dialogue(speaker="SYSTEM").doubts(rows)) == []
    (doubt,) = dialogue(speaker="System").doubts(rows)
    assert "no turn of any context begins with 'System:'" in doubt
    assert list(dialogue(speaker="System").doubts([{**rows[0], "context": "USER: hi"}])) == []


def test_roles_without_a_speaker() -> None:
    """Else the model would learn from turns with names, and be asked without."""
    rows = [{"context": "user: hi\nassistant: ho\nuser: so", "response": "no", "split": None}]
    (doubt,) = dialogue().doubts(rows)
    assert "turns begin with 'assistant:'" in doubt
    assert "speaker: assistant" in doubt
    assert list(dialogue(speaker="assistant", partner="user").doubts(rows)) == []


def test_prompts() -> None:
    """By the chat template where there is one, else a line a turn; of what is too long whole turns
    are left."""
    tokenizer = words(ended=False)
    application = dialogue(speaker="B", maximum_tokens=10)
    tokenizer.chat_template = TEMPLATE
    text = "the movie was so good\nB: it was\nand the plot"
    (ids,) = [
        one["input_ids"]
        for one in application.encode([{"context": text}], tokenizer, supervised=False)
    ]
    # Ten tokens, two of them the template's around a text: eight of the text, and of them the
    # turns that are whole.
    assert tokenizer.decode(ids) == "a it was the and the plot a"
    tokenizer.chat_template = None
    by_name = dialogue(speaker="so", partner="the")
    (plain,) = by_name.encode([{"context": "the: a\nso: so"}], tokenizer, supervised=False)
    assert tokenizer.decode(plain["input_ids"]) == "the [UNK] a so [UNK] so"  # names stay


def test_a_template_that_takes_no_conversation(causal: Path) -> None:
    """Such as one without a system's turn, or that begins with the user's alone."""
    made = learner(causal, dialogue())
    refusing = "{{ raise_exception('only user first') if messages[0].role != 'user' }} a"
    made.tokenizer.chat_template = refusing
    for application in (dialogue(), dialogue(speaker="B"), dialogue(prefix="kind")):
        (complaint,) = application.complaints(made.backbone, made.tokenizer)
        assert "chat template" in complaint
        assert "only user first" in complaint
    made.tokenizer.chat_template = TEMPLATE
    assert list(dialogue(speaker="B").complaints(made.backbone, made.tokenizer)) == []


@pytest.fixture(params=["seq2seq", "causal"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_perplexity(folder: Path) -> None:
    """exp of the mean loss of the responses' tokens, and of as much a word; batched or not."""
    application = dialogue()
    made = learner(folder, application)
    found = prediction.predict(made, "dialogue", ROWS, supervised=True)
    nats = 0.0
    for row, one in zip(ROWS, found, strict=True):
        (example,) = application.encode([row], made.tokenizer)
        labels = torch.tensor([example["labels"]])
        batch: Any = {
            "input_ids": torch.tensor([example["input_ids"]]),
            "attention_mask": torch.ones(1, len(example["input_ids"]), dtype=torch.long),
            "labels": labels,
        }
        with torch.no_grad():
            loss = float(made("dialogue", batch).loss)
        assert one["nats"] == pytest.approx(loss * labels.numel(), rel=1e-4)
        nats += one["nats"]
    # The end is a token and no word, and signs are tokens and no words.
    assert [(one["tokens"], one["words"]) for one in found] == [(4, 3), (8, 5)]
    scores = application.scores(application.statistics(found, ROWS).sum(0))
    assert scores["perplexity"] == pytest.approx(np.exp(nats / 12))
    assert scores["word_perplexity"] == pytest.approx(np.exp(nats / 8))


def test_the_response_is_not_read(folder: Path) -> None:
    """What is written is the same whether the response is known or not."""
    made = learner(folder, dialogue())
    blind = prediction.predict(made, "dialogue", ROWS)
    told = prediction.predict(made, "dialogue", ROWS, supervised=True)
    assert [set(one) for one in blind] == [{"text"}] * 2
    assert [one["text"] for one in blind] == [one["text"] for one in told]


def test_the_floor_has_no_perplexity() -> None:
    """The most frequent response gives no probabilities: its perplexity is left out, all else is
    compared."""
    pipeline = Pipeline.model_validate(
        {
            "application": {"kind": "dialogue"},
            "backbone": {"new": {}},
            "sources": {"chats": {"path": "none"}},
            "target": {"clinic": {"path": "none"}},
            "paradigm": {"kind": "fine_tuning"},
            "evaluation": {"resamples": 100},
            "promotion": {"model": "clinic"},
        }
    )
    application = pipeline.application
    rows = [{**row, "id": str(i), "group": None} for i, row in enumerate([*ROWS, *ROWS, ROWS[1]])]
    floor = application.trivial(rows, rows)
    assert {one["text"] for one in floor} == {"very fine , was it not ?"}
    transfer = [{"text": row["response"], "nats": 4.0, "tokens": 4, "words": 3} for row in rows]
    report = comparison.compare(pipeline, {"majority": floor, "transfer": transfer}, rows)
    json.dumps(report, allow_nan=False)
    assert set(report["systems"]["majority"]) == {"bleu", "rougeL"}
    assert report["systems"]["transfer"]["perplexity"]["value"] == pytest.approx(np.e)
    assert set(report["gains"]["majority"]["metrics"]) == {"bleu", "rougeL"}
    assert report["systems"]["transfer"]["rougeL"]["value"] == pytest.approx(100)


def test_distinct() -> None:
    """Different words and pairs among all that are said, whatever their case."""
    found = dialogue().traits([{"text": "So so so good"}, {"text": "so good"}, {"text": ""}])
    assert found == {"distinct1": pytest.approx(100 * 2 / 6), "distinct2": pytest.approx(50)}


@pytest.mark.parametrize("text", ["привет мир", "ئەپ تەڭشىكى", "你好世界", "नमस्ते दुनिया"])
def test_scripts_have_words(text: str) -> None:
    """What is said to the letter has ROUGE-L 100 in any script, and more words than one."""
    row = {"context": "so", "response": text}
    told = {"text": text, "nats": 4.0, "tokens": 4, "words": len(words_of(text))}
    scores = dialogue().scores(dialogue().statistics([told], [row]).sum(0))
    assert scores["rougeL"] == pytest.approx(100)
    assert dialogue().traits([told])["distinct1"] == 100
    assert len(words_of(text)) == (4 if "你" in text else 2)
    assert dialogue().measures({"context": text}) == {"length": len(words_of(text))}


def test_as_many_turns_as_fit() -> None:
    """What a template puts around a turn goes with it, and takes no place from others."""
    tokenizer = words(ended=False)
    tokenizer.chat_template = "{% for one in messages %}so {{ one.content }} is {% endfor %}"
    context = "\n".join(["good"] * 20)
    (example,) = dialogue(maximum_tokens=30).encode(
        [{"context": context}], tokenizer, supervised=False
    )
    assert 24 <= len(example["input_ids"]) <= 30  # ten turns would fit


def test_bleu_of_characters() -> None:
    """Where words have no blanks between them, what is said to the letter has all of BLEU too."""
    row = {"context": "so", "response": "我们明天去北京"}
    found = {}
    for script in (None, "Chinese"):
        application = dialogue(script=script)
        totals = application.statistics([{"text": row["response"]}], [row]).sum(0)
        found[script] = float(application.scores(totals)["bleu"])
    assert found == {None: 0, "Chinese": pytest.approx(100)}
    assert "tok:zh|" in dialogue(script="Chinese").signatures()["bleu"]


def test_words_are_googles() -> None:
    """On texts of ASCII."""
    from rouge_score.tokenize import tokenize

    for text in ("Don't U.S. 3.5_mm", "a  B\n--c", "", "x"):
        assert words_of(text) == tokenize(text, None)


def test_sampling(folder: Path) -> None:
    """Drawn anew each time, and the same again from the same seed; beams are another way."""
    warm = dialogue(sampling=Sampling(temperature=5.0, top_p=1.0))
    made = learner(folder, warm)

    def drawn(seed: int) -> list[dict[str, Any]]:
        torch.manual_seed(seed)
        return prediction.predict(made, "dialogue", ROWS)

    assert drawn(1) == drawn(1)
    assert len({json.dumps(drawn(seed)) for seed in range(5)}) > 1
    with pytest.raises(ValidationError, match="set beams: 1"):
        dialogue(sampling={}, beams=2)


def test_any_word_may_be_drawn(causal: Path) -> None:
    """Where all are about as probable, all come, not only the 50 most probable."""
    made = learner(causal, dialogue(sampling=Sampling(temperature=1e6, top_p=1.0)))
    torch.manual_seed(0)
    with prediction.evaluating(made):
        ids = made.backbone.generate(
            made.heads["dialogue"],
            torch.full((600, 1), 5),
            torch.ones(600, 1, dtype=torch.long),
            length=1,
            beams=1,
            end=made.tokenizer.eos_token_id,
            sampling=(1e6, 1.0),
        )
    assert len(set(ids[:, 0].tolist())) > 55  # of 60


def test_the_stage_draws_by_the_seed(causal: Path) -> None:
    """What is drawn for the test rows follows from the pipeline's seed, and is the same again."""
    document: dict[str, Any] = {
        "application": dialogue(sampling=Sampling(temperature=5.0, top_p=1.0)).model_dump(),
        "backbone": {"new": {}},
        "sources": {"chats": {"path": "none"}},
        "target": {"clinic": {"path": "none"}},
        "paradigm": {"kind": "fine_tuning"},
        "promotion": {"model": "clinic"},
    }

    def rows(folder: Path) -> None:
        (folder / "clinic").mkdir()
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "clinic" / "test.parquet")

    split = store.produce("split", "a" * 24, rows)
    made = learner(causal, dialogue())
    held = store.produce("transfer", "b" * 24, lambda folder: made.save(folder / "learner"))

    def drawn(seed: int) -> list[dict[str, Any]]:
        pipeline = Pipeline.model_validate({**document, "seed": seed})
        planned = predict.stage(pipeline, split, held, "transfer", pipeline.target_name)
        output = store.produce(planned.name, planned.key, planned.compute)
        found = predict.read(output)
        shutil.rmtree(output.path)
        return found

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("beams", [1, 3])
def test_streamed(folder: Path, tmp_path: Path, beams: int) -> None:
    """The pieces together are what is written without streaming, one request at a time."""
    application = dialogue(beams=beams)
    learner(folder, application).save(tmp_path / "learner")
    serving.describe(tmp_path, application)
    served = serving.ServedModel(tmp_path)
    for row in ROWS:
        table = pd.DataFrame({"context": [row["context"]]})
        pieces = [one["response"] for one in served.predict_stream(dict(row))]
        assert "".join(pieces).strip() == served.predict(table)["response"][0]
        assert beams > 1 or len(pieces) > 1
    with pytest.raises(ValueError, match="'context' is missing; given: text"):
        list(served.predict_stream({"text": "so"}))
    # What goes wrong while writing reaches who reads.
    served.learner.backbone.generate = lambda *_, **__: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(ZeroDivisionError):
        list(served.predict_stream({"context": "so"}))


def test_abandoned(folder: Path) -> None:
    """Who reads only the first piece, or two at once, changes nothing of what others are told."""
    application = dialogue(maximum_new_tokens=40)
    made = learner(folder, application)
    expected = prediction.predict(made, "dialogue", ROWS[:1])
    for _ in range(3):
        begun = stream(made, "dialogue", ROWS[0])
        next(begun)
        begun.close()
        assert prediction.predict(made, "dialogue", ROWS[:1]) == expected
    both = [stream(made, "dialogue", ROWS[0]) for _ in range(2)]
    firsts = [next(one) for one in both]
    for first, one in zip(firsts, both, strict=True):
        assert (first + "".join(one)).strip() == expected[0]["text"]


def ingested(tmp_path: Path, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stage = ingest.stage("chats", Domain(path=str(path)), dialogue())
    stage.compute(tmp_path)
    return pq.read_table(tmp_path / "rows.parquet").to_pylist()


def test_turns_in_the_data(tmp_path: Path) -> None:
    """A list of texts, of roles and contents, or one text with a turn a line."""
    rows = ingested(
        tmp_path,
        {"context": ["A: hi", "B: oh\nwell", ""], "response": "yes"},
        {"context": [{"role": "user", "content": "hi"}, {"content": "oh"}], "response": "yes"},
        {"context": "A: hi\r\n\nB: oh", "response": "yes"},
        {"context": [], "response": "yes"},
        {"context": ["hi"], "response": " "},
    )
    assert [row["context"] for row in rows] == [
        "A: hi\nB: oh well",
        "user: hi\noh",
        "A: hi\nB: oh",
        None,  # which the gate rejects, and a missing response too
        "hi",
    ]
    assert rows[4]["response"] is None


def test_who_says_what() -> None:
    """Names stand before the turns of each side, and nobody speaks for the model."""
    assert list(named(["hi", "ho", "B: so"], "B: ", "A: ")) == ["A: hi", "B: ho", "A: so"]
    assert list(named(["hi", "ho", "so"], "", "")) == ["hi", "ho", "so"]
    assert list(named(["B: B:B: so"], "B: ", "")) == ["so"]
    assert list(named(["B:"], "B: ", "")) == ["…"]


def test_a_conversation() -> None:
    """All that was said is told at each turn; an empty line forgets it."""
    heard: list[list[str]] = []

    def partner(turns: Any) -> Any:
        heard.append(list(turns))
        yield " re: "
        yield turns[-1]

    answered = StringIO()
    converse(partner, StringIO("hi\nwell\n\nso\n"), answered)
    assert heard == [["hi"], ["hi", "re: hi", "well"], ["so"]]
    assert answered.getvalue() == "> re: hi\n> re: well\n> > re: so\n> \n"

    heard.clear()
    converse(lambda turns: iter(heard.append(list(turns)) or ("",)), StringIO("hi\nso\n"), answered)
    assert heard == [["hi"], ["hi", "…", "so"]]
