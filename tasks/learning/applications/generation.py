"""Writing text: what translation, summarization and dialogue share.

    seq2seq   the encoder reads the prompt, the decoder writes the reply
    causal    one network reads the prompt and writes on; only the reply is scored

    loss = −mean log p(reply_t | prompt, reply_<t), the reply's end included

An application brings `reply`, its fields and its scores, and nothing about networks.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from tasks.learning.applications.limits import too_long
from tasks.learning.applications.scripts import Script, written_in
from tasks.learning.applications.words import words
from tasks.learning.contracts import IGNORED, Batch, Config, Example, Output, Prediction, Row

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tasks.learning.backbone import Backbone
    from tasks.learning.learner import Learner


CHARACTERS = {
    "Chinese": "zh",
    **dict.fromkeys(("Japanese", "Khmer", "Lao", "Myanmar", "Thai", "Tibetan"), "char"),
}
"""sacreBLEU's tokenizers of scripts that have no blanks between words."""
Message = dict[str, str]
"""{"role": "user", "content": "Good day."}"""


class Sampling(Config):
    """How words are drawn."""

    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Below 1, probable words are drawn more often than by their probability."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Only from the most probable words that together have this probability (Holtzman et al.
    2020)."""


class Generation(Config):
    """Write a reply to each prompt."""

    best: ClassVar[float] = 100
    reads: ClassVar[Literal["start", "end"]] = "start"
    """Which part of a prompt that is too long is read."""

    kind: str
    """The application."""
    prefix: str = ""
    """What the backbone is told before each text: `summarize: ` for T5, or a tag that names the
    language to be written, where one backbone writes several."""
    maximum_tokens: Annotated[int, Field(gt=2)] = 128
    """Longer texts are cut so that the prompt has so many tokens, counted with the prefix, the
    tokenizer's special tokens and the words of its chat template."""
    maximum_new_tokens: Annotated[int, Field(gt=1)] = 64
    """At most so many tokens are written; longer replies to learn from are cut."""
    beams: Annotated[int, Field(gt=0)] = 4
    """Replies that are followed side by side to find the most probable one; 1: word by word the
    most probable."""
    sampling: Sampling | None = None
    """Draw each word by its probability, as conversations want it; null: what is most probable."""
    script: Script | None = None
    """The script of what is written. Where most has no letter of it, columns or files were mixed
    up, and nothing is trained. Of one without blanks between words BLEU counts characters. null:
    any."""
    hidden: Annotated[int, Field(gt=0)] = 256
    """Width of the head: a correction of what the backbone's own projection onto its vocabulary
    reads, which starts at nothing."""

    @model_validator(mode="after")
    def one_way(self) -> Self:
        """Beams look for the most probable text, sampling does not."""
        if self.sampling and self.beams > 1:
            raise ValueError("sampling draws one text; set beams: 1")
        return self

    @property
    def tokenizer(self) -> str:
        """sacreBLEU's, of what is written."""
        return CHARACTERS.get(self.script or "", "13a")

    @property
    def beside(self) -> int:
        """All that the beams may write."""
        return self.beams * self.maximum_new_tokens

    @property
    def labels(self) -> tuple[str, ...]:
        """None: texts are written, not sorted."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The vocabulary's, which all tasks share."""
        return ()

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
        return {name: request[name] for name in self.inputs}

    def read(self, row: Row) -> str:
        """The text."""
        return str(row["text"])

    def messages(self, text: str) -> list[Message]:
        """A text as a conversation: the prefix and it, as the user's only turn."""
        return [{"role": "user", "content": self.prefix + text}]

    def samples(self) -> Sequence[str]:
        """Texts that show whether a chat template takes what it is given."""
        return [""]

    @abstractmethod
    def reply(self, row: Row) -> str:
        """What is to be written."""

    def classes(self, row: Row) -> set[str]:
        """None."""
        return set()

    def complaints(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """A network that cannot write, or not as it is asked to, or texts that may be too long."""
        from jinja2 import TemplateError

        if backbone.kind == "encoder":
            yield (
                f"application.kind is {self.kind}, which writes text, and the backbone is an "
                "encoder alone; accepted: a seq2seq or causal one"
            )
            return
        if not backbone.writes_as_trained:
            yield "the backbone's files lack lm_head.weight, so it was never trained to write"
        if tokenizer.eos_token_id is None:
            yield "the backbone's tokenizer has no token that ends a text (eos_token)"
            return
        if not backbone.reads_and_writes():
            yield f"{self.kind}: networks of type {backbone.network.config.model_type} do not write"
        try:
            self._framed(self.samples(), tokenizer)
        except TemplateError as error:
            yield f"the backbone's chat template does not take what {self.kind} gives it ({error})"
            return
        if self._room(tokenizer) < 1:
            yield (
                f"application.maximum_tokens is {self.maximum_tokens}, which the prefix and what "
                "the tokenizer puts around a text fill up; raise it"
            )
        read, write = self.maximum_tokens, self.maximum_new_tokens
        if backbone.kind == "seq2seq":
            yield from too_long(read, backbone.maximum_positions)
            yield from too_long(write, backbone.maximum_written, "maximum_new_tokens")
        elif backbone.maximum_positions is not None and read + write > backbone.maximum_positions:
            yield (
                f"application.maximum_tokens is {read} and maximum_new_tokens {write}, but the "
                f"backbone takes at most {backbone.maximum_positions} of both together"
            )

    def doubts(self, rows: Sequence[Row]) -> Iterator[str]:
        """What is to be written is most often what is read, or in another script."""
        labelled = [row for row in rows if row["split"] != "unlabelled"]
        same = sum(self.read(row) == self.reply(row) for row in labelled)
        if 2 * same > len(labelled):
            yield (
                f"what is to be written is the text itself in {same} of {len(labelled)} rows; are "
                "the columns right?"
            )
        if self.script is None:
            return
        told = [written_in(self.reply(row), self.script) for row in labelled]
        if 2 * told.count(False) > len(told) - told.count(None):
            other = labelled[told.index(False)]
            yield (
                f"{told.count(False)} of {len(labelled)} texts to be written have no letter of the "
                f"{self.script} script, such as row {other['row']} of {other['file']}: "
                f"'{self.reply(other)[:60]}'"
            )

    def head(self, width: int) -> nn.Module:
        """A correction of the states that the vocabulary is read from."""
        from tasks.learning.applications.residual import Residual

        return Residual(width, self.hidden)

    def encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, supervised: bool = True
    ) -> list[Example]:
        """Prompts as the backbone was trained to read them; with `supervised`, replies too."""
        if not rows:
            return []
        examples = self._prompts([self.read(row) for row in rows], tokenizer)
        if not supervised:
            return examples
        replies = tokenizer(
            text_target=[self.reply(row) for row in rows],
            add_special_tokens=False,
            split_special_tokens=True,  # "</s>" in a reply is not its end
        )["input_ids"]
        control = (tokenizer.eos_token_id, tokenizer.pad_token_id)  # T5's are sub-words as well
        for example, reply in zip(examples, replies, strict=True):
            whole = [*(i for i in reply if i not in control), tokenizer.eos_token_id]
            # A reply that is cut has no end that could be learned.
            example["labels"] = whole[: self.maximum_new_tokens]
            if len(whole) > self.maximum_new_tokens:
                example["cut"] = True
        return examples

    def _prompts(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        """The prompts, each text cut so that what stands around it is whole."""
        room = self._room(tokenizer)
        plain = without_special(texts, tokenizer)
        short = shortened(plain, tokenizer, room, self.reads)
        prompts = self._framed(short, tokenizer)
        examples = []
        for i, ids in enumerate(prompts):
            fewer = room
            # Where a character is several tokens, or each turn has a template's words around it,
            # which go with it: so half of what is too much at a time.
            while len(ids) > self.maximum_tokens and fewer:
                fewer -= (len(ids) - self.maximum_tokens + 1) // 2
                (short[i],) = shortened([plain[i]], tokenizer, max(0, fewer), self.reads)
                (ids,) = self._framed([short[i]], tokenizer)
            example = Example(input_ids=ids)
            if short[i] != plain[i]:
                example["cut"] = True
            examples.append(example)
        return examples

    def _room(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens that are left for a text."""
        (around,) = self._framed([""], tokenizer)
        return self.maximum_tokens - len(around)

    def _framed(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Token ids of the texts with what stands around them."""
        if tokenizer.chat_template is not None:
            whole = [chat(self.messages(text), tokenizer) for text in texts]
        else:
            whole = [self.prefix + text + ending(tokenizer) for text in texts]
        special = tokenizer.chat_template is None
        ids: list[list[int]] = tokenizer(whole, add_special_tokens=special)["input_ids"]
        return ids

    def states(self, example: Example) -> int:
        """The prompt's feature, and one for each token of the reply."""
        reply = example.get("labels", [])
        assert isinstance(reply, list)
        return 1 + len(reply)

    def represent(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(B, 1 + T, H) the mean of the prompt's states, then what each of the reply's tokens is
        predicted from; (B, 1, H) without a reply."""
        import torch

        from tasks.learning.backbone import masked_mean

        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch.get("labels")
        if labels is None:
            return masked_mean(backbone.encode(ids, mask), mask).unsqueeze(1)
        read, written = backbone.decode(ids, mask, labels)
        return torch.cat([masked_mean(read, mask).unsqueeze(1), written], 1)

    def respond(
        self, backbone: Backbone, head: nn.Module, representation: Tensor, batch: Batch
    ) -> Output:
        """The loss of the reply's tokens, each counting the same."""
        from torch.nn import functional

        features, labels = representation[:, 0], batch.get("labels")
        if labels is None:
            return Output(None, None, features)
        logits = backbone.project(head(representation[:, 1:]))  # (B, T, V)
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
        return Output(loss, logits, features)

    def predict(self, learner: Learner, task: str, batch: Batch) -> list[Prediction]:
        """{"text": "Ayarlar"}"""
        written = self.write(learner, task, batch)
        texts = learner.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [{"text": text.strip()} for text in texts]

    def write(self, learner: Learner, task: str, batch: Batch, streamer: Any = None) -> Tensor:
        """(B, T) ids of what is written; `streamer`, transformers', is told each token at once."""
        return learner.backbone.generate(
            learner.heads[task],
            batch["input_ids"],
            batch["attention_mask"],
            length=self.maximum_new_tokens,
            beams=self.beams,
            sampling=(self.sampling.temperature, self.sampling.top_p) if self.sampling else None,
            end=learner.tokenizer.eos_token_id,
            streamer=streamer,
        )

    def given(self, prediction: Prediction) -> set[str]:
        """None."""
        return set()

    def confidence(self, prediction: Prediction) -> None:
        """It is not said of the whole."""
        return None

    def correct(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N,) whether what was written is the reply to the letter."""
        pairs = zip(predictions, rows, strict=True)
        return np.array([p["text"] == self.reply(row) for p, row in pairs], dtype=bool)

    def signatures(self) -> dict[str, str]:
        """None."""
        return {}

    def sliced(self, metric: str) -> str:
        """The same."""
        return metric

    def measures(self, row: Row) -> dict[str, float]:
        """`length`, of what is read, in words."""
        return {"length": len(words(self.read(row)))}

    def traits(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """None."""
        return {}

    def by_label(self, totals: np.ndarray) -> dict[str, dict[str, float]]:
        """None."""
        return {}

    def confusion(self, totals: np.ndarray) -> None:
        """None."""
        return None


def ends_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it ends a text, as encoders' do; those of causal networks leave it open."""
    ids = tokenizer("a")["input_ids"]  # of no text the last token may be the one that begins it
    return bool(ids) and ids[-1] == tokenizer.eos_token_id


def chat(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """A conversation by the tokenizer's template, up to where the reply begins."""
    framed = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=False
    )
    assert isinstance(framed, str)
    return framed


def without_special(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts with a blank in what would be read as a special token: "</s>" becomes "< /s>", and who
    writes a chat template's marks does not speak as another."""
    special = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    marks = sorted(special, key=len, reverse=True)
    if not marks:
        return list(texts)
    found = re.compile("|".join(map(re.escape, marks)))
    return [found.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text) for text in texts]


def ending(tokenizer: PreTrainedTokenizerBase) -> str:
    """What is put behind a text without a template: a new line, where a causal network would not
    know that it has ended; nothing where the tokenizer ends it."""
    return "" if ends_texts(tokenizer) else "\n"


def shortened(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    kept: Literal["start", "end"],
) -> list[str]:
    """Texts of at most so many tokens, cut where one ends; `kept` is the part that stays.

    Where the end stays, lines stay whole if one does.
    """
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    short = []
    for text, places in zip(texts, found["offset_mapping"], strict=True):
        if len(places) <= tokens:
            short.append(text)
        elif tokens == 0:
            short.append("")
        elif kept == "start":
            short.append(text[: places[tokens - 1][1]])
        else:
            start = places[-tokens][0]
            rest = text[start:] if text[:start].endswith("\n") else text[start:].partition("\n")[2]
            short.append(rest or text[start:])
    return short
