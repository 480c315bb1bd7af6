"""A BERT small enough to be written and trained in a moment, and reviews it can learn from."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.learning.contracts import Row
    from tasks.learning.learner import Learner

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
GOOD = ("great", "good", "lovely", "superb", "brilliant", "fine", "charming", "clever")
BAD = ("awful", "bad", "dull", "boring", "terrible", "poor", "weak", "stupid")
THINGS = ("movie", "film", "plot", "story", "actor", "scene", "book", "phone", "camera", "music")
OTHER = ("the", "a", "an", "this", "that", "is", "was", "it", "and", "but", "not", "very", "so",
         "i", "we", "they", "saw", "found", "with", "of", "in", "to", "for", "all", "really",
         ".", ",", "!", "?")  # fmt: skip
VOCABULARY = (*SPECIAL, *GOOD, *BAD, *THINGS, *OTHER)  # 60
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def write_backbone(folder: Path, layers: int = 3, seed: int = 0) -> Path:
    """A random BERT of width 32 as a transformers folder: config, safetensors, tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def reviews(count: int, seed: int = 0) -> list[Mapping[str, str]]:
    """As many rows, half of each label; the label follows from the opinion words alone."""
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        label, opinions = [("negative", BAD), ("positive", GOOD)][i % 2]
        words = ["the", chance.choice(THINGS), "was", chance.choice(opinions)]
        for _ in range(chance.randrange(4)):
            words += ["and", chance.choice(("very", "so", "really")), chance.choice(opinions)]
        rows.append({"text": " ".join(words), "label": label})
    return rows


def score(learner: Learner, task: str, rows: Sequence[Row]) -> dict[str, float]:
    """A task's scores on labelled rows."""
    from tasks.learning.prediction import score_examples

    examples = learner.tasks[task].encode(rows, learner.tokenizer, supervised=False)
    return score_examples(learner, task, examples, rows)
