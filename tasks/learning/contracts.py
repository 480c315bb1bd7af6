"""The contracts everything else in `learning` keeps. Read this file first.

An **application** is what is learned: text, labels, decoding. It never sees a paradigm.
A **paradigm** is how knowledge is carried over: gradients. It never sees text.
Both are frozen pydantic models: their configuration and their behaviour in one place.

Shapes, here and in every file below:
    B batch   S source tokens   T target tokens   H width   C labels   V vocabulary
    N rows    K statistics a row
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Protocol, TypedDict

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tasks.learning.backbone import Backbone
    from tasks.learning.batches import Streams
    from tasks.learning.learner import Learner

IGNORED = -100
"""The label of a position that is not scored."""

Row = Mapping[str, Any]
Prediction = dict[str, Any]
Draw = Mapping[str, tuple[str, "Batch"]]
"""What one step learns from: role -> (task, batch), for example {"target": ("products", batch)}."""


class Unfit(ValueError):
    """A paradigm that cannot be applied to the backbone it was given."""


class Config(BaseModel):
    """Base of every configuration object: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
    )


@dataclass(frozen=True)
class Rule:
    """What one field of a row must be. The validation gate turns it into expectations."""

    values: tuple[str, ...] | None = None
    """The accepted values; None for free text."""
    items: bool = False
    """A list in the data; kept as its items with one blank between."""
    several: bool = False
    """A text, or a list of texts in the data, any of which is right; kept a line each."""
    turns: bool = False
    """What was said in turn: a list in the data, of texts or of {role, content}, or a text with a
    turn a line; kept a line each, `role: content`."""
    tags: bool = False
    """Each item is O, or B- or I- and a label; `label_rule` maps the labels."""
    pattern: str | None = None
    """A regular expression the whole value must match."""
    accepted: str = ""
    """What `pattern` accepts, in words."""
    as_many_as: str | None = None
    """The field that has as many items."""


class Example(TypedDict):
    """One row, tokenized: `input_ids: [101, 2307, 3185, 102]`, `labels: 1`."""

    input_ids: list[int]
    labels: NotRequired[int | list[int]]
    """One, one a token, or the tokens that are to be written."""
    represented: NotRequired[np.ndarray]
    """What `Application.represent` gives for it, where that was kept: (H,), (S, H), (1 + T, H)."""
    words: NotRequired[list[int]]
    """1 + the number of the word that starts at each sub-word, 0 at the others."""
    cut: NotRequired[bool]
    """There, and true, where something was left out for being too long."""


class Batch(TypedDict, total=False):
    """Examples padded to the longest among them."""

    input_ids: Tensor  # (B, S) int64
    attention_mask: Tensor  # (B, S) int64, 1 = a real token
    labels: Tensor  # (B,) | (B, S) | (B, T) int64; IGNORED = not scored; absent = unlabelled
    represented: Tensor  # (B, H) | (B, S, H) | (B, 1 + T, H) of a frozen backbone, float32
    words: Tensor  # (B, S) int64, 1 + the word that starts here, 0 elsewhere; tagging only


@dataclass(frozen=True)
class Output:
    """What a forward pass gives."""

    loss: Tensor | None  # () nats a scored label; None when unlabelled
    logits: Tensor | None  # (B, C) | (B, S, C) | (B, T, V)
    features: Tensor  # (B, H) mean over the real *input* tokens only


class Application(Protocol):
    """WHAT is learned. One frozen configuration class a file in `applications/`."""

    @property
    def kind(self) -> str:
        """The application's name in pipelines.yaml."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What rows are sorted into or tagged with; none where text is written."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each of the head's C logits stands for."""

    @property
    def maximum_tokens(self) -> int:
        """Longer inputs are cut."""

    @property
    def beside(self) -> int:
        """Tokens that answering takes beside those of the text; 0 where nothing is written."""

    @property
    def floor(self) -> str:
        """The name of the baseline that `trivial` answers for."""

    @property
    def metric(self) -> str:
        """The score that decides, a key of what `scores` returns."""

    @property
    def best(self) -> float:
        """The highest value of the metrics that may decide: 1, or 100."""

    @property
    def fields(self) -> Mapping[str, Rule]:
        """The columns a row must have."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of them that a prediction needs."""

    @property
    def request(self) -> tuple[str, ...]:
        """What a served model asks for in their place, in the same order."""

    def asked(self, request: Row) -> dict[str, str]:
        """A request as the `inputs` of a row, cut into words where they are."""

    def model_dump(self, *, mode: str, exclude: set[str] | None = None) -> dict[str, Any]:
        """The configuration as JSON (pydantic's)."""

    def complaints(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """What in its configuration does not go with the backbone."""

    def doubts(self, rows: Sequence[Row]) -> Iterator[str]:
        """What speaks against all rows together, though each of them will do."""

    def head(self, width: int) -> nn.Module:
        """A new, untrained head on features of `width`."""

    def encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, supervised: bool = True
    ) -> list[Example]:
        """Tokenize rows; with `supervised`, labels too."""

    def classes(self, row: Row) -> set[str]:
        """The classes a labelled row is an example of."""

    def states(self, example: Example) -> int:
        """How many states `represent` gives for it; 0: one vector for the whole of it."""

    def represent(self, backbone: Backbone, batch: Batch) -> Tensor:
        """What the head reads of a batch: (B, H) for whole texts, (B, S, H) for their tokens,
        (B, 1 + T, H) for what is read and each token that is to be written."""

    def respond(
        self, backbone: Backbone, head: nn.Module, representation: Tensor, batch: Batch
    ) -> Output:
        """Loss, logits and features of a batch whose representation is known."""

    def predict(self, learner: Learner, task: str, batch: Batch) -> list[Prediction]:
        """One prediction a row of the batch, ready for JSON."""

    def columns(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        """The prediction on a request, as the columns of a table."""

    def given(self, prediction: Prediction) -> set[str]:
        """The labels that a prediction gives; none where text is written."""

    def trivial(self, seen: Sequence[Row], asked: Sequence[Row]) -> list[Prediction]:
        """What needs no learning: an answer to each row of `asked`, having seen the labels of
        `seen`."""

    def statistics(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N, K) sufficient statistics, one row an example, such that scores of their sum
        are the corpus scores: this is what makes every metric cheap to bootstrap."""

    def confidence(self, prediction: Prediction) -> float | None:
        """How probable it is held to be wholly right; None: it is not said."""

    def correct(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """(N,) whether each prediction is wholly right."""

    def sliced(self, metric: str) -> str:
        """The score by which parts of the rows are compared, where `metric` decides on all: a part
        may lack labels."""

    def measures(self, row: Row) -> dict[str, float]:
        """Numbers of a labelled row that how hard it is may depend on: {"length": 12}."""

    def traits(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What can be said of all predictions together without knowing what is right."""

    def signatures(self) -> dict[str, str]:
        """Metric -> what exactly is counted, where there is more than one way."""

    def scores(self, totals: np.ndarray) -> dict[str, np.ndarray]:
        """(..., K) summed statistics -> metric -> (...) values."""

    def by_label(self, totals: np.ndarray) -> dict[str, dict[str, float]]:
        """(K,) summed statistics -> label -> precision, recall, f1 and count of true ones."""

    def confusion(self, totals: np.ndarray) -> np.ndarray | None:
        """(..., C, C) rows by true and predicted label; None where a row has not just one."""


class Plan(Protocol):
    """What each step of a training learns from. Pure: to resume is to start at step N."""

    seed: int

    def steps(self, epochs: int) -> int:
        """Steps in so many epochs."""

    def epoch(self, step: int) -> int:
        """The epoch a step belongs to."""

    def draw(self, step: int) -> Draw:
        """The batches of a step."""


class Objective(Protocol):
    """What the loop needs of whatever it trains by: a paradigm, or pretraining."""

    def prepare(self, learner: Learner) -> None:
        """Freeze, or add adapters and discriminators. Called once, before any step."""

    def parameter_groups(self, learner: Learner, learning_rate: float) -> list[dict[str, Any]]:
        """Optimizer groups: `{"params": [...], "lr": ...}` over what may ever be trained."""

    def advance(self, learner: Learner, progress: float) -> None:
        """What changes as training goes on; `progress` is the share of steps done, in [0, 1)."""

    def gradients(
        self, learner: Learner, draw: Draw, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Fill `.grad` of the trainable parameters; return values to log."""


class Paradigm(Objective, Protocol):
    """HOW knowledge is carried over. One frozen configuration class a file in `paradigms/`.

    A paradigm fills `.grad` and returns what is worth logging; it does not return a loss, since
    Reptile has none at the outer parameters. The loop reduces, clips, steps and logs.
    """

    frozen_backbone: ClassVar[bool]
    """Whether the backbone never changes, so that its outputs may be computed once."""
    reads_target: ClassVar[bool]
    """Whether it learns from the target's labelled rows."""
    reads_sources: ClassVar[bool]
    """Whether it learns from the sources' rows."""
    reads_text: ClassVar[bool]
    """Whether it learns from the target's text, and so may do without the target's labels."""

    @property
    def kind(self) -> str:
        """The paradigm's name in pipelines.yaml."""

    @property
    def alone(self) -> Paradigm:
        """How `target_only` is trained: the same, or fine-tuning where this needs sources."""

    @property
    def adaptation(self) -> Paradigm | None:
        """What takes its result to the target's labels; None: it learns from them itself."""

    @property
    def rows_per_label(self) -> int:
        """So many rows of each of its labels a source must have."""

    @property
    def needs_linear_head(self) -> bool:
        """Whether it writes the target's head, which then has no hidden layer."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """The configuration as JSON (pydantic's)."""

    def complaints(self, domains: Mapping[str, int], tasks: Collection[str]) -> Iterator[str]:
        """What in its configuration does not go with the pipeline.

        Args:
            domains: each domain's number of labels, the target's last.
            tasks: the names of the tasks.
        """

    def plan(self, streams: Streams) -> Plan:
        """What each step draws, and how many steps an epoch has."""

    def initialise(self, learner: Learner, streams: Streams) -> None:
        """Set what follows from the rows without training. Called once, before `prepare`."""
