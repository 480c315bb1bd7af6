"""Named-entity recognition: a BIO tag for each word, read off its first sub-word.

tokens   Angela   Merkel   visited  Paris         one string, a blank between words
tags     B-person I-person O        B-location
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from tasks.learning.applications import bio, counts
from tasks.learning.applications.heads import new_head
from tasks.learning.applications.labels import distinct
from tasks.learning.applications.limits import mark_cut, too_long
from tasks.learning.contracts import (
    IGNORED,
    Batch,
    Config,
    Example,
    Output,
    Prediction,
    Row,
    Rule,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tasks.learning.backbone import Backbone
    from tasks.learning.learner import Learner

UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
LETTERS = rf"[^\W{UNSPACED}]+"
WORD = re.compile(
    rf"(?:[^\W\d_{UNSPACED}]\.){{2,}}"
    rf"|{LETTERS}(?:(?:['’&-]|(?<=\d)[.,:](?=\d)){LETTERS})*"
    rf"|[{UNSPACED}]|[^\w\s]"
)
"""How a request's text is cut: U.S., don't, Coca-Cola and 1,000 are one word each, any other mark
is a word, and so is each character of a script that puts no blanks between words."""


class Ner(Config):
    """Find and name the entities of `labels` in each sentence."""

    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "precision", "recall", "macro_f1")
    floor: ClassVar[str] = "majority"
    best: ClassVar[float] = 1

    kind: Literal["ner"]
    """The application."""
    labels: Annotated[
        tuple[Annotated[str, Field(pattern=r"^\S+$")], ...],
        Field(min_length=1),
        AfterValidator(distinct),
    ]
    """The entity types, without B- and I-."""
    maximum_tokens: Annotated[int, Field(gt=2)] = 256
    """Longer sentences are cut to so many sub-words; words beyond are tagged O."""
    hidden: Annotated[int, Field(gt=0)] | None = None
    """Width of the head's one hidden layer; null: the head is linear."""
    invalid_bio: Literal["repair", "refuse"] = "repair"
    """Tags such as O I-person: repair makes it O B-person; refuse sends the row to quarantine."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tags."""
        return tuple(bio.tag_names(self.labels))

    @property
    def metric(self) -> str:
        """Entity F1 decides unless the pipeline says otherwise."""
        return "entity_f1"

    @property
    def fields(self) -> Mapping[str, Rule]:
        """`tokens`, and as many `tags`."""
        tags = bio.pattern(self.labels, strict=self.invalid_bio == "refuse")
        accepted = f"O, and B- and I- with {', '.join(self.labels)}"
        if self.invalid_bio == "refuse":
            accepted += "; no I- that continues nothing"
        return {
            "tokens": Rule(
                items=True, pattern=r"^\S+( \S+)*$", accepted="words, none of them empty"
            ),
            "tags": Rule(
                items=True, tags=True, pattern=tags, accepted=accepted, as_many_as="tokens"
            ),
        }

    @property
    def beside(self) -> int:
        """None."""
        return 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """`tokens`"""
        return ("tokens",)

    @property
    def request(self) -> tuple[str, ...]:
        """`text`, as people write it."""
        return ("text",)

    def asked(self, request: Row) -> dict[str, str]:
        """The text's words, as `tokens`."""
        return {"tokens": " ".join(words(request))}

    def classes(self, row: Row) -> set[str]:
        """The types in a row, and O."""
        return {tag.partition("-")[2] or tag for tag in row["tags"].split(" ")}

    def complaints(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """Texts that may be too long."""
        return too_long(self.maximum_tokens, backbone.maximum_positions)

    def doubts(self, rows: Sequence[Row]) -> Iterator[str]:
        """None."""
        yield from ()

    def head(self, width: int) -> nn.Module:
        """A classifier on each sub-word's state."""
        return new_head(width, len(self.outputs), self.hidden)

    def encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, supervised: bool = True
    ) -> list[Example]:
        """Words to sub-words; the first of each word carries its number, and its tag's.

        tokens Merkel left      input_ids [101, 21442, 19492, 2187, 102]
        tags   B-person O       words     [0, 1, 0, 2, 0]
                                labels    [-100, 1, -100, 0, -100]
        """
        if not rows:
            return []
        blank = leading_blank(tokenizer)
        encoded = tokenizer(
            [[blank + word for word in words(row)] for row in rows],
            is_split_into_words=True,
            truncation=True,
            max_length=self.maximum_tokens,
        )
        index = {tag: i for i, tag in enumerate(bio.tag_names(self.labels))}
        examples = []
        for i, row in enumerate(rows):
            numbers = word_numbers(encoded.word_ids(i))
            example = Example(input_ids=encoded["input_ids"][i], words=numbers)
            if supervised:
                tags = bio.repaired(row["tags"].split(" "))
                example["labels"] = [index[tags[n - 1]] if n else IGNORED for n in numbers]
            examples.append(example)
        mark_cut(examples, encoded)
        return examples

    def states(self, example: Example) -> int:
        """One a token."""
        return len(example["input_ids"])

    def represent(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(B, S, H) states of the top layer."""
        return backbone.encode(batch["input_ids"], batch["attention_mask"])

    def respond(
        self, backbone: Backbone, head: nn.Module, representation: Tensor, batch: Batch
    ) -> Output:
        """loss = -log softmax(head(state))[tag], mean over the words of the batch."""
        from torch.nn import functional

        from tasks.learning.backbone import masked_mean

        logits = head(representation)  # (B, S, C)
        labels = batch.get("labels")  # (B, S)
        loss = None
        if labels is not None:
            flat = logits.flatten(0, 1).float()  # (B * S, C)
            summed = functional.cross_entropy(
                flat, labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss = summed / (labels != IGNORED).sum().clamp(min=1)
        return Output(loss, logits, masked_mean(representation, batch["attention_mask"]))

    def predict(self, learner: Learner, task: str, batch: Batch) -> list[Prediction]:
        """{"spans": [{"start": 0, "end": 2, "label": "person", "confidence": 0.98}]}, by word.

        Tags are decoded so that they are valid; a span's confidence is its tags' mean probability.
        """
        output = learner(task, batch)
        assert output.logits is not None
        names = bio.tag_names(self.labels)
        follows = bio.allowed(self.labels)
        logs = output.logits.float().log_softmax(-1).cpu().numpy()  # (B, S, C)
        numbers = batch["words"].cpu().numpy()  # (B, S)
        found: list[Prediction] = []
        for row_logs, row_numbers in zip(logs, numbers, strict=True):
            (starts,) = row_numbers.nonzero()
            if len(starts) == 0:  # nothing in it that the tokenizer knows
                found.append({"spans": []})
                continue
            tags = bio.decode(row_logs[starts], follows)
            sure = np.exp(row_logs[starts, tags])
            word = row_numbers[starts] - 1
            found.append(
                {
                    "spans": [
                        {
                            "start": int(word[span.start]),
                            "end": int(word[span.end - 1]) + 1,
                            "label": span.label,
                            "confidence": float(sure[span.start : span.end].mean()),
                        }
                        for span in bio.spans([names[tag] for tag in tags])
                    ]
                }
            )
        return found

    def columns(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        """The entities with their text, and its place in the request in characters."""
        text, places = row["text"], word_places(row["text"])
        entities = []
        for span in prediction["spans"]:
            start, end = places[span["start"]][0], places[span["end"] - 1][1]
            entities.append({**span, "text": text[start:end], "start": start, "end": end})
        return {"entities": entities}

    def given(self, prediction: Prediction) -> set[str]:
        """The types of its entities."""
        return {span["label"] for span in prediction["spans"]}

    def trivial(self, seen: Sequence[Row], asked: Sequence[Row]) -> list[Prediction]:
        """No entity anywhere: O is the most frequent tag."""
        return [{"spans": []} for _ in asked]

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, 3 * T): for each of T types, spans that are right, that are predicted, that are true.

        Right is strict: the same words and the same type (Tjong Kim Sang and De Meulder 2003, as in
        seqeval's strict mode).
        """
        place = {label: i for i, label in enumerate(self.labels)}
        found = np.zeros((len(rows), 3, len(self.labels)))
        for cells, prediction, row in zip(found, predictions, rows, strict=True):
            said, true = predicted_spans(prediction), true_spans(row)
            for line, group in enumerate((said & true, said, true)):
                for span in group:
                    cells[line, place[span.label]] += 1
        return found.reshape(len(rows), -1)

    def confidence(self, prediction: Prediction) -> None:
        """It is not said of the whole."""
        return None

    def correct(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N,) whether a sentence's entities are all found and nothing else."""
        pairs = zip(predictions, rows, strict=True)
        return np.array([predicted_spans(p) == true_spans(row) for p, row in pairs], dtype=bool)

    def sliced(self, metric: str) -> str:
        """The same."""
        return metric

    def measures(self, row: Row) -> dict[str, float]:
        """`length`, in words."""
        return {"length": row["tokens"].count(" ") + 1}

    def traits(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """None."""
        return {}

    def signatures(self) -> dict[str, str]:
        """None."""
        return {}

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """precision = right / predicted; recall = right / true; entity_f1 their harmonic mean, over
        all entities together (micro); macro_f1 the mean of the types' own F1."""
        right, said, true = self._counts(totals)
        return {
            "entity_f1": counts.f1(right.sum(-1), said.sum(-1), true.sum(-1)),
            "precision": counts.share(right.sum(-1), said.sum(-1)),
            "recall": counts.share(right.sum(-1), true.sum(-1)),
            "macro_f1": counts.f1(right, said, true).mean(-1),
        }

    def by_label(self, totals: np.ndarray) -> dict[str, dict[str, float]]:
        """Each type's precision, recall, F1 and number of true entities."""
        return counts.by_label(self.labels, *self._counts(totals))

    def confusion(self, totals: np.ndarray) -> None:
        """None: a sentence has any number of entities."""

    def _counts(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(..., T) each: right, predicted, true."""
        stacked = totals.reshape(*totals.shape[:-1], 3, len(self.labels))
        return stacked[..., 0, :], stacked[..., 1, :], stacked[..., 2, :]


def leading_blank(tokenizer: PreTrainedTokenizerBase) -> str:
    """What goes in front of a word that comes already cut: for RoBERTa the blank is part of it."""
    return " " if tokenizer.tokenize(" a") != tokenizer.tokenize("a") else ""


def words(row: Row) -> list[str]:
    """A training row's tokens, or a request's text cut into words."""
    if row.get("tokens") is not None:
        tokens: list[str] = row["tokens"].split(" ")
        return tokens
    return [row["text"][start:end] for start, end in word_places(row["text"])]


def word_places(text: str) -> list[tuple[int, int]]:
    """Where each word of a request's text starts and ends, in characters."""
    return [match.span() for match in WORD.finditer(text)]


def word_numbers(word_ids: Sequence[int | None]) -> list[int]:
    """[None, 0, 0, 1, None] -> [0, 1, 0, 2, 0]: 1 + the word that starts here, 0 elsewhere."""
    before = [None, *word_ids[:-1]]
    return [
        0 if word is None or word == last else word + 1
        for word, last in zip(word_ids, before, strict=True)
    ]


def predicted_spans(prediction: Prediction) -> set[bio.Span]:
    """The spans of a prediction, without their confidence."""
    return {bio.Span(s["start"], s["end"], s["label"]) for s in prediction["spans"]}


def true_spans(row: Row) -> set[bio.Span]:
    """The spans of a row's tags."""
    return set(bio.spans(bio.repaired(row["tags"].split(" "))))
