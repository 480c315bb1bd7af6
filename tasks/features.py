"""What a frozen backbone says of each row, computed once and kept on disk.

features.npy   (rows, H) or (all rows' tokens, H) float32
ends.npy       (rows,) where each row's part ends
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tasks import progress, store
from tasks.learning.contracts import Example

if TYPE_CHECKING:
    from tasks.learning.learner import Learner


def attached(
    learner: Learner, task: str, examples: Sequence[Example], backbone: str, subject: str
) -> list[Example]:
    """The examples with `represented`, read off the disk as they are needed.

    Args:
        learner: its backbone is used as it is, without dropout.
        task: whose representation it is to be.
        examples: what to represent.
        backbone: digest of the backbone's weights.
        subject: what is trained, for people.
    """
    application = learner.tasks[task].model_dump(mode="json", exclude={"hidden"})  # no head is used
    read = [[e["input_ids"], e.get("labels")] for e in examples]
    inputs = {"backbone": backbone, "examples": store.digest(read)}
    key = store.stage_key("features", application, inputs)
    output = store.produce(
        "features", key, lambda folder: write(learner, task, examples, folder, subject)
    )
    features = np.load(output.file("features.npy"), mmap_mode="r")
    ends = np.load(output.file("ends.npy"))
    if len(ends) == 0:
        return [cast(Example, {**e, "represented": features[i]}) for i, e in enumerate(examples)]
    starts = [0, *ends[:-1]]
    return [
        cast(Example, {**e, "represented": features[start:end]})
        for e, start, end in zip(examples, starts, ends, strict=True)
    ]


def write(
    learner: Learner, task: str, examples: Sequence[Example], folder: Path, subject: str
) -> None:
    """Represent all examples, longest first, and write each to its own place."""
    from tasks.learning.prediction import represent

    lengths = [learner.tasks[task].states(example) for example in examples]
    ends = np.cumsum(lengths, dtype=np.int64)
    table: np.memmap | None = None
    for done, (index, array) in enumerate(represent(learner, task, examples), 1):
        pooled = array.ndim == 1
        if table is None:
            shape = (len(examples) if pooled else int(ends[-1]), array.shape[-1])
            path = folder / "features.npy"
            table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if pooled:
            table[index] = array
        else:
            table[ends[index] - lengths[index] : ends[index]] = array
        progress.step(f"{subject} features", done, len(examples), {})
    assert table is not None
    table.flush()
    np.save(folder / "ends.npy", ends[:0] if pooled else ends)
