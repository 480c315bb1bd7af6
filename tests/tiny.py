"""Networks small enough to be written and trained in a moment, and rows they can learn from."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def write_seq2seq(folder: Path) -> Path:
    """A random T5 of two layers a side and width 32, whose tokenizer ends a text."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=IDS["[SEP]"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    words(ended=True).save_pretrained(folder)
    return folder


def write_causal(folder: Path) -> Path:
    """A random Llama of two layers and width 32, whose tokenizer leaves a text open."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=IDS["[CLS]"],
        eos_token_id=IDS["[SEP]"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    words(ended=False).save_pretrained(folder)
    return folder


def words(*, ended: bool) -> PreTrainedTokenizerBase:
    """A tokenizer that knows the vocabulary's words, and perhaps puts an end to a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(IDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    if ended:
        tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
            single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", IDS["[SEP]"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
    )


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
