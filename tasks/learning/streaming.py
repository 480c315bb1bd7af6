"""A text piece by piece, as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Thread

from transformers import TextStreamer

from tasks.learning.applications.generation import Generation
from tasks.learning.batches import collate, moved
from tasks.learning.contracts import Row
from tasks.learning.learner import Learner
from tasks.learning.prediction import evaluating


class Abandoned(Exception):
    """Whoever read the pieces does so no longer."""


class Pieces(TextStreamer):
    """Puts each piece of text that is settled into a queue."""

    def __init__(
        self,
        learner: Learner,
        queue: SimpleQueue[str | BaseException | None],
        abandoned: Event,
    ) -> None:
        """What is read is left out, and so are special tokens."""
        super().__init__(learner.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.queue, self.abandoned = queue, abandoned

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """transformers calls this.

        Raises:
            Abandoned: nobody reads on.
        """
        if self.abandoned.is_set():
            raise Abandoned
        self.queue.put(text)


def stream(learner: Learner, task: str, row: Row) -> Iterator[str]:
    """The pieces of the answer to one row; all of it at once where beams are followed.

    Raises:
        ValueError: the task's application writes no text.
    """
    application = learner.tasks[task]
    if not isinstance(application, Generation):
        raise ValueError(f"{application.kind} writes no text, so there is nothing to stream")
    writer = application
    (example,) = writer.encode([row], learner.tokenizer, supervised=False)
    device = next(learner.parameters()).device
    batch = moved(collate([example], learner.tokenizer.pad_token_id), device)
    queue: SimpleQueue[str | BaseException | None] = SimpleQueue()
    abandoned = Event()

    def write() -> None:  # in a thread of its own, since transformers returns only at the end
        try:
            with evaluating(learner):
                if writer.beams > 1:
                    queue.put(writer.predict(learner, task, batch)[0]["text"])
                else:
                    writer.write(learner, task, batch, Pieces(learner, queue, abandoned))
            queue.put(None)
        except BaseException as error:  # raised where the pieces are read
            queue.put(error)

    Thread(target=write, daemon=True).start()
    try:
        while (piece := queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            if piece:
                yield piece
    finally:
        abandoned.set()
