"""A backbone from nothing but the training rows: a vocabulary, and a random network around it.

The vocabulary is byte-level BPE (Radford et al. 2019, section 2.2), shared by all that is read and
written (Kocmi and Bojar 2018, section 3): whatever the script, nothing is unknown. The network is
Marian's (Junczys-Dowmunt et al. 2018), a transformer with an encoder and a decoder.

learner/backbone/     see tasks/learning/learner.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import store
from tasks.config import NewBackbone, Pipeline
from tasks.learning.applications.generation import Generation
from tasks.stage import Stage
from tasks.training import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, END = "<pad>", "</s>"
POSITIONS = 512


def stage(pipeline: Pipeline, split: store.Output) -> Stage:
    """Learn a vocabulary from every domain's training rows, and draw weights from the seed."""
    config = pipeline.backbone.new
    assert config is not None

    def compute(folder: Path) -> None:
        from tasks.learning.objectives.denoising import SENTINELS

        denoising = pipeline.pretraining and pipeline.pretraining.objective == "denoising"
        marks = SENTINELS if denoising else ()
        tokenizer = vocabulary(texts(pipeline, split), config.vocabulary, marks)
        place = folder / "learner" / "backbone"
        network(config, tokenizer, pipeline.seed).save_pretrained(place)
        tokenizer.save_pretrained(place)

    return Stage(
        "scratch",
        "vocabulary and network",
        {
            "new": config.model_dump(mode="json"),
            "tasks": {n: a.model_dump(mode="json") for n, a in pipeline.tasks.items()},
            "domains": list(pipeline.domains),
            "objective": pipeline.pretraining.objective if pipeline.pretraining else None,
            "seed": pipeline.seed,
        },
        {f"rows of {d}": split.digest(f"{d}/") for d in pipeline.domains},
        compute,
    )


def texts(pipeline: Pipeline, split: store.Output) -> Iterator[str]:
    """All free text of the rows that may be learned from, and what is put before it."""
    for domain in pipeline.domains:
        application = pipeline.application_of(domain)
        free = [name for name, rule in application.fields.items() if not (rule.values or rule.tags)]
        prefix = application.prefix if isinstance(application, Generation) else ""
        for part in ("train", "unlabelled"):
            for row in read_rows(split.file(f"{domain}/{part}.parquet")):
                yield from (prefix + row[name] for name in free if row[name])


def vocabulary(
    texts: Iterator[str], size: int, marks: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer of so many sub-words, or fewer where the texts give no more, and never fewer than
    all bytes and the marks; it puts an end to each text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = (END, tokenizer.token_to_id(END))
    tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=POSITIONS
    )


def network(config: NewBackbone, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A random Marian, its embeddings shared by encoder, decoder and output."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MarianMTModel(
            MarianConfig(
                vocab_size=len(tokenizer),
                d_model=config.width,
                encoder_layers=config.layers,
                decoder_layers=config.layers,
                encoder_attention_heads=config.heads,
                decoder_attention_heads=config.heads,
                encoder_ffn_dim=config.feed_forward,
                decoder_ffn_dim=config.feed_forward,
                max_position_embeddings=POSITIONS,
                scale_embedding=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                forced_eos_token_id=None,
                decoder_start_token_id=tokenizer.pad_token_id,
            )
        )
