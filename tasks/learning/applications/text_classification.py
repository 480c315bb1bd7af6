"""Text classification: one label a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

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
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from tasks.learning.backbone import Backbone


class TextClassification(Config):
    """Assign one of `labels` to each text."""

    metrics: ClassVar[tuple[str, ...]] = ("macro_f1", "accuracy")

    kind: Literal["text_classification"]
    """The application."""
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    """The accepted labels, in the order of the model's outputs."""
    maximum_tokens: Annotated[int, Field(gt=2)] = 128
    """Longer texts are cut to so many tokens, counted with the tokenizer's special tokens."""

    @property
    def metric(self) -> str:
        """Macro-averaged F1 decides unless the pipeline says otherwise."""
        return "macro_f1"

    @property
    def fields(self) -> Mapping[str, Rule]:
        """`text`, and `label` among the accepted ones."""
        return {"text": Rule(), "label": Rule(values=self.labels)}

    @property
    def inputs(self) -> tuple[str, ...]:
        """`text`"""
        return ("text",)

    def head(self, width: int) -> nn.Module:
        """A linear classifier on the mean of the text's token states."""
        from torch import nn

        return nn.Linear(width, len(self.labels))

    def encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, supervised: bool = True
    ) -> list[Example]:
        """{"text": "great", "label": "positive"} -> {"input_ids": [101, 2307, 102], "labels": 1}"""
        if not rows:
            return []
        ids = tokenizer(
            [row["text"] for row in rows], truncation=True, max_length=self.maximum_tokens
        )["input_ids"]
        if not supervised:
            return [Example(input_ids=i) for i in ids]
        index = {label: i for i, label in enumerate(self.labels)}
        return [
            Example(input_ids=i, labels=index[row["label"]])
            for i, row in zip(ids, rows, strict=True)
        ]

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Output:
        """loss = -log softmax(head(features))[label], mean over the batch."""
        from torch.nn import functional

        from tasks.learning.backbone import masked_mean

        states = backbone.encode(batch["input_ids"], batch["attention_mask"])  # (B, S, H)
        features = masked_mean(states, batch["attention_mask"])  # (B, H)
        logits = head(features)  # (B, C)
        labels = batch.get("labels")
        loss = None if labels is None else functional.cross_entropy(logits.float(), labels)
        return Output(loss, logits, features)

    def predict(self, backbone: Backbone, head: nn.Module, batch: Batch) -> list[Prediction]:
        """{"label": "positive", "probabilities": [0.02, 0.98]}, in the order of `labels`."""
        logits = self.forward(backbone, head, batch).logits
        assert logits is not None
        probabilities = logits.float().softmax(-1).cpu().numpy()  # (B, C)
        return [
            {"label": self.labels[int(p.argmax())], "probabilities": [float(x) for x in p]}
            for p in probabilities
        ]

    def columns(self, prediction: Prediction) -> dict[str, str | float]:
        """{"label": "positive", "probability_negative": 0.02, "probability_positive": 0.98}"""
        pairs = zip(self.labels, prediction["probabilities"], strict=True)
        return {"label": prediction["label"], **{f"probability_{n}": p for n, p in pairs}}

    def constant(self, rows: Sequence[Row]) -> Prediction:
        """The most frequent label, and every label's share as its probability."""
        counts = Counter(row["label"] for row in rows)
        shares = [counts[label] / len(rows) for label in self.labels]
        return {"label": self.labels[int(np.argmax(shares))], "probabilities": shares}

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, C*C): a one in the confusion cell [true, predicted] of each row."""
        index = {label: i for i, label in enumerate(self.labels)}
        classes = len(self.labels)
        true = np.array([index[row["label"]] for row in rows], dtype=int)
        predicted = np.array([index[p["label"]] for p in predictions], dtype=int)
        cells = np.zeros((len(rows), classes * classes))
        cells[np.arange(len(rows)), true * classes + predicted] = 1
        return cells

    def correct(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N,) whether the label is the true one."""
        pairs = zip(predictions, rows, strict=True)
        return np.array([p["label"] == row["label"] for p, row in pairs], dtype=bool)

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """accuracy = trace / sum; macro_f1 = mean over classes of 2 TP / (2 TP + FP + FN).

        A class that is neither expected nor predicted has F1 0, as in scikit-learn.
        """
        classes = len(self.labels)
        confusion = totals.reshape(*totals.shape[:-1], classes, classes)  # (..., true, predicted)
        hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., C)
        named = confusion.sum(-1) + confusion.sum(-2)  # 2 TP + FP + FN
        f1 = np.divide(2 * hits, named, out=np.zeros_like(hits), where=named > 0)
        return {"macro_f1": f1.mean(-1), "accuracy": hits.sum(-1) / confusion.sum((-2, -1))}
