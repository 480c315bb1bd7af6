"""Text classification: one label a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from tasks.learning.applications import counts
from tasks.learning.applications.heads import new_head
from tasks.learning.applications.labels import distinct
from tasks.learning.applications.limits import mark_cut, too_long
from tasks.learning.applications.words import words
from tasks.learning.contracts import (
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


class TextClassification(Config):
    """Assign one of `labels` to each text."""

    metrics: ClassVar[tuple[str, ...]] = ("macro_f1", "accuracy")
    floor: ClassVar[str] = "majority"
    best: ClassVar[float] = 1

    kind: Literal["text_classification"]
    """The application."""
    labels: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(distinct)]
    """The accepted labels, in the order of the model's outputs."""
    maximum_tokens: Annotated[int, Field(gt=2)] = 128
    """Longer texts are cut to so many tokens, counted with the tokenizer's special tokens."""
    hidden: Annotated[int, Field(gt=0)] | None = None
    """Width of the head's one hidden layer; null: the head is linear."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    @property
    def metric(self) -> str:
        """Macro-averaged F1 decides unless the pipeline says otherwise."""
        return "macro_f1"

    @property
    def fields(self) -> Mapping[str, Rule]:
        """`text`, and `label` among the accepted ones."""
        return {"text": Rule(), "label": Rule(values=self.labels)}

    @property
    def beside(self) -> int:
        """None."""
        return 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """`text`"""
        return ("text",)

    @property
    def request(self) -> tuple[str, ...]:
        """`text`"""
        return ("text",)

    def asked(self, request: Row) -> dict[str, str]:
        """The same."""
        return {"text": request["text"]}

    def classes(self, row: Row) -> set[str]:
        """Its label."""
        return {row["label"]}

    def complaints(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """Texts that may be too long."""
        return too_long(self.maximum_tokens, backbone.maximum_positions)

    def doubts(self, rows: Sequence[Row]) -> Iterator[str]:
        """None."""
        yield from ()

    def head(self, width: int) -> nn.Module:
        """A classifier on the mean of the text's token states."""
        return new_head(width, len(self.outputs), self.hidden)

    def encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, supervised: bool = True
    ) -> list[Example]:
        """{"text": "great", "label": "positive"} -> {"input_ids": [101, 2307, 102], "labels": 1}"""
        if not rows:
            return []
        encoded = tokenizer(
            [row["text"] for row in rows], truncation=True, max_length=self.maximum_tokens
        )
        examples = [Example(input_ids=ids) for ids in encoded["input_ids"]]
        mark_cut(examples, encoded)
        if supervised:
            index = {label: i for i, label in enumerate(self.labels)}
            for example, row in zip(examples, rows, strict=True):
                example["labels"] = index[row["label"]]
        return examples

    def states(self, example: Example) -> int:
        """0: one for the whole text."""
        return 0

    def represent(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(B, H) the mean of each text's token states."""
        from tasks.learning.backbone import masked_mean

        states = backbone.encode(batch["input_ids"], batch["attention_mask"])  # (B, S, H)
        return masked_mean(states, batch["attention_mask"])

    def respond(
        self, backbone: Backbone, head: nn.Module, representation: Tensor, batch: Batch
    ) -> Output:
        """loss = -log softmax(head(features))[label], mean over the batch."""
        from torch.nn import functional

        logits = head(representation)  # (B, C)
        labels = batch.get("labels")
        loss = None if labels is None else functional.cross_entropy(logits.float(), labels)
        return Output(loss, logits, representation)

    def predict(self, learner: Learner, task: str, batch: Batch) -> list[Prediction]:
        """{"label": "positive", "probabilities": [0.02, 0.98]}, in the order of `labels`."""
        logits = learner(task, batch).logits
        assert logits is not None
        probabilities = logits.float().softmax(-1).cpu().numpy()  # (B, C)
        return [
            {"label": self.labels[int(p.argmax())], "probabilities": [float(x) for x in p]}
            for p in probabilities
        ]

    def columns(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        """{"label": "positive", "probability_negative": 0.02, "probability_positive": 0.98}"""
        pairs = zip(self.labels, prediction["probabilities"], strict=True)
        return {"label": prediction["label"], **{f"probability_{n}": p for n, p in pairs}}

    def given(self, prediction: Prediction) -> set[str]:
        """Its label."""
        return {prediction["label"]}

    def trivial(self, seen: Sequence[Row], asked: Sequence[Row]) -> list[Prediction]:
        """The most frequent label, and every label's share as its probability."""
        counted = Counter(row["label"] for row in seen)
        shares = [counted[label] / len(seen) for label in self.labels]
        label = self.labels[int(np.argmax(shares))]
        return [{"label": label, "probabilities": shares} for _ in asked]

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, C*C): a one in the confusion cell [true, predicted] of each row."""
        index = {label: i for i, label in enumerate(self.labels)}
        classes = len(self.labels)
        true = np.array([index[row["label"]] for row in rows], dtype=int)
        predicted = np.array([index[p["label"]] for p in predictions], dtype=int)
        cells = np.zeros((len(rows), classes * classes))
        cells[np.arange(len(rows)), true * classes + predicted] = 1
        return cells

    def confidence(self, prediction: Prediction) -> float:
        """The probability of the label that is given."""
        return float(max(prediction["probabilities"]))

    def correct(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N,) whether the label is the true one."""
        pairs = zip(predictions, rows, strict=True)
        return np.array([p["label"] == row["label"] for p, row in pairs], dtype=bool)

    def sliced(self, metric: str) -> str:
        """Accuracy: a label that a part has no row of would count as F1 0."""
        return "accuracy"

    def measures(self, row: Row) -> dict[str, float]:
        """`length`, in words."""
        return {"length": len(words(row["text"]))}

    def traits(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """None."""
        return {}

    def signatures(self) -> dict[str, str]:
        """None."""
        return {}

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """accuracy = trace / sum; macro_f1 = mean over classes of 2 TP / (2 TP + FP + FN).

        A class that is neither expected nor predicted has F1 0, as in scikit-learn.
        """
        right, said, true = self._counts(totals)
        return {
            "macro_f1": counts.f1(right, said, true).mean(-1),
            "accuracy": right.sum(-1) / true.sum(-1),
        }

    def by_label(self, totals: np.ndarray) -> dict[str, dict[str, float]]:
        """Each label's precision, recall, F1 and number of true rows."""
        return counts.by_label(self.labels, *self._counts(totals))

    def confusion(self, totals: np.ndarray) -> np.ndarray:
        """(..., C, C) rows by their true label and the predicted one."""
        return totals.reshape(*totals.shape[:-1], len(self.labels), len(self.labels))

    def _counts(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(..., C) each: right, predicted, true."""
        confusion = self.confusion(totals)
        return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1)
