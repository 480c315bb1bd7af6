"""Writing text: what is read and what is written are cut and joined right, by either backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch.nn import functional

from tasks.learning import prediction
from tasks.learning.applications.generation import ending, shortened
from tasks.learning.applications.translation import Translation
from tasks.learning.backbone import Backbone, load_backbone, load_tokenizer
from tasks.learning.batches import collate
from tasks.learning.contracts import IGNORED, Application
from tasks.learning.learner import Learner, load_learner, new_learner
from tests.tiny import IDS, words

END = IDS["[SEP]"]
ROWS = [
    {"text": "the movie was great and the plot was so good", "translation": "great movie , fine"},
    {"text": "the book", "translation": "book"},
    {"text": "a phone was bad", "translation": "so bad a phone"},
]


class FromItsEnd(Translation):
    """Reads the end of what is too long."""

    reads: ClassVar[Literal["start", "end"]] = "end"


def translation(**options: Any) -> Translation:
    return Translation(kind="translation", **{"maximum_new_tokens": 8, "beams": 1, **options})


def learner(folder: Path, application: Application) -> Learner:
    torch.manual_seed(0)
    made = new_learner(folder, {"translation": application})
    return made.eval()


def moved(learner: Learner) -> Learner:
    """With a head that is not new, so that it says something."""
    for parameter in learner.heads["translation"].parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return learner


def ids(text: str) -> list[int]:
    return [IDS[word] for word in text.split()]


def test_encoded_for_an_encoder_and_decoder() -> None:
    """Both texts have their end; the prefix stands in front of what is read."""
    (example,) = translation(prefix="the ").encode(
        [{"text": "book", "translation": "good book"}], words(ended=True)
    )
    assert example == {"input_ids": [*ids("the book"), END], "labels": [*ids("good book"), END]}


def test_encoded_for_a_causal_network() -> None:
    """The prompt stays open, and a new line, which this vocabulary has not, parts it."""
    tokenizer = words(ended=False)
    (example,) = translation().encode([{"text": "book", "translation": "good"}], tokenizer)
    assert example == {"input_ids": ids("book"), "labels": [*ids("good"), END]}
    assert (ending(tokenizer), ending(words(ended=True))) == ("\n", "")


def test_encoded_by_a_chat_template() -> None:
    """What stands around the text is never cut, and only the text is."""
    tokenizer = words(ended=False)
    tokenizer.chat_template = "so {{ messages[0].content }} is"
    found = translation(maximum_tokens=4).encode(
        [{"text": "the movie was great", "translation": "good"}], tokenizer, supervised=False
    )
    assert found == [{"input_ids": ids("so the movie is"), "cut": True}]


def test_cut() -> None:
    """A prompt loses its end, and a reply that is too long has none to learn."""
    application = translation(maximum_tokens=4, maximum_new_tokens=3)
    long, short = application.encode(ROWS[:2], words(ended=True))
    assert long == {
        "input_ids": [*ids("the movie was"), END],
        "labels": ids("great movie ,"),
        "cut": True,
    }
    assert short == {"input_ids": [*ids("the book"), END], "labels": [*ids("book"), END]}


@pytest.mark.parametrize(
    ("text", "reply", "cut"),
    [
        ("the movie was", "good", False),  # as long as it may be
        ("the movie was great", "good", True),
        ("the", "great movie", False),
        ("the", "great movie ,", True),  # its end
    ],
)
def test_what_is_cut_is_marked(text: str, reply: str, cut: bool) -> None:
    """Neither what just fits nor what is far too long is mistaken."""
    application = translation(maximum_tokens=4, maximum_new_tokens=3)
    (example,) = application.encode([{"text": text, "translation": reply}], words(ended=True))
    assert ("cut" in example) is cut


def test_special_tokens_in_texts() -> None:
    """They are text like other text: they end nothing, and what is written comes back as it was."""
    from tasks.scratch import vocabulary

    tokenizer = vocabulary(iter(["so good"]), 300)
    row = {"text": "so </s> <pad> good", "translation": "a</s> b <pad>"}
    (example,) = translation(maximum_new_tokens=64).encode([row], tokenizer)
    read, reply = example["input_ids"], example["labels"]
    assert isinstance(reply, list)
    for tokens in (read, reply):
        assert tokens.index(tokenizer.eos_token_id) == len(tokens) - 1
        assert tokenizer.pad_token_id not in tokens
    assert tokenizer.decode(reply, skip_special_tokens=True).strip() == row["translation"]
    assert tokenizer.decode(read, skip_special_tokens=True).strip() == "so < /s> < pad> good"


def test_a_tokenizer_that_begins_with_its_end() -> None:
    """OPT's does; a text is then still open at its own end."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = words(ended=False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[SEP] $A", special_tokens=[("[SEP]", END)]
    )
    assert tokenizer("")["input_ids"] == [END]
    assert ending(tokenizer) == "\n"


def test_ends_that_are_words_of_the_vocabulary() -> None:
    """A unigram vocabulary may have them as sub-words; they do not end a reply before its end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in "▁ab</s>")]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    (example,) = translation().encode([{"text": "a", "translation": "a</s> b"}], tokenizer)
    reply = example["labels"]
    assert isinstance(reply, list)
    assert reply.index(1) == len(reply) - 1


def test_special_tokens_in_a_conversation() -> None:
    """Who writes a template's marks does not speak as the model."""
    tokenizer = words(ended=False)
    tokenizer.chat_template = "[SEP] {{ messages[0].content }} [SEP]"
    (example,) = translation().encode([{"text": "the [SEP] movie"}], tokenizer, supervised=False)
    assert [i for i, token in enumerate(example["input_ids"]) if token == END] == [
        0,
        len(example["input_ids"]) - 1,
    ]


def test_a_tokenizer_without_padding(causal: Path, tmp_path: Path) -> None:
    """It pads with what ends a text, which is masked."""
    tokenizer = load_tokenizer(causal)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "[SEP]"


@pytest.mark.parametrize(("kept", "text"), [("start", "the movie"), ("end", "was great")])
def test_shortened(kept: Any, text: str) -> None:
    """The text's own characters, up to where a token ends or from where one begins."""
    texts = ["the movie was great", "so"]
    assert shortened(texts, words(ended=False), 2, kept) == [text, "so"]


@pytest.fixture(params=["seq2seq", "causal"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def networks() -> Sequence[Any]:
    """One of each family, random."""
    import transformers as hf

    few = {"vocab_size": 60, "pad_token_id": 0, "decoder_start_token_id": 2}
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    wide = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32}
    t5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    return [
        hf.T5ForConditionalGeneration(hf.T5Config(**few, **t5)),
        hf.T5ForConditionalGeneration(hf.T5Config(**few, **t5, scale_decoder_outputs=False)),
        hf.MarianMTModel(hf.MarianConfig(**few, **layers, **heads, **wide)),
        hf.BartForConditionalGeneration(hf.BartConfig(**few, **layers, **heads, **wide)),
        hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=60,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
            )
        ),
        hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=60, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=3
            )
        ),
    ]


def test_a_cut_that_comes_out_longer() -> None:
    """A character that is several tokens is whole or gone: the prompt is never above its limit."""
    from tasks.scratch import vocabulary

    tokenizer = vocabulary(iter(["so good"]), 300)
    for text in ("ئەپ تەڭشىكى", "漢字かな", "🦊🦊🦊🦊"):
        for limit in range(3, 12):
            for kind in (Translation, FromItsEnd):
                application = kind(kind="translation", maximum_tokens=limit)
                (example,) = application.encode([{"text": text}], tokenizer, supervised=False)
                assert len(example["input_ids"]) <= limit
                read = tokenizer.decode(example["input_ids"], skip_special_tokens=True).strip()
                assert ("cut" in example) is (read != text)


def complaints(folder: Path, application: Translation, **changes: Any) -> list[str]:
    made = learner(folder, application)
    for name, value in changes.items():
        setattr(made.tokenizer, name, value)
    return list(application.complaints(made.backbone, made.tokenizer))


def test_what_does_not_go_with_the_backbone(backbone: Path, seq2seq: Path, causal: Path) -> None:
    """An encoder, no end, no room for a text, and more tokens than there are positions."""
    assert complaints(seq2seq, translation()) == complaints(causal, translation()) == []
    (said,) = complaints(backbone, translation())
    assert "is an encoder alone; accepted: a seq2seq or causal one" in said
    (said,) = complaints(causal, translation(), eos_token=None)
    assert "no token that ends a text" in said
    (said,) = complaints(causal, translation(prefix="the movie was ", maximum_tokens=3))
    assert "maximum_tokens is 3, which the prefix" in said
    assert complaints(causal, translation(maximum_tokens=256, maximum_new_tokens=256)) == []
    (said,) = complaints(causal, translation(maximum_tokens=257, maximum_new_tokens=256))
    assert "the backbone takes at most 512 of both together" in said


def test_limits_of_reading_and_of_writing() -> None:
    """Some networks read more than they write."""
    from transformers import LEDConfig, LEDForConditionalGeneration

    network = LEDForConditionalGeneration(
        LEDConfig(
            vocab_size=60, d_model=32, encoder_layers=1, decoder_layers=1, attention_window=[16],
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
            decoder_ffn_dim=64, max_encoder_position_embeddings=64,
            max_decoder_position_embeddings=16,
        )
    )  # fmt: skip
    backbone, tokenizer = Backbone(network), words(ended=True)
    fits = translation(maximum_tokens=64, maximum_new_tokens=16)
    assert list(fits.complaints(backbone, tokenizer)) == []
    long = translation(maximum_tokens=65, maximum_new_tokens=17)
    assert list(long.complaints(backbone, tokenizer)) == [
        "application.maximum_tokens is 65, but the backbone takes at most 64",
        "application.maximum_new_tokens is 17, but the backbone takes at most 16",
    ]


def test_a_projection_that_was_never_trained(causal: Path, tmp_path: Path) -> None:
    """A network whose files lack what it writes with would write at random."""
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(causal).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(causal).save_pretrained(tmp_path)
    (said,) = complaints(tmp_path, translation())
    assert "lack lm_head.weight" in said


def odd_networks() -> Sequence[Any]:
    """Those with a step between states and vocabulary, or that look ahead."""
    import transformers as hf

    torch.manual_seed(0)
    small = {"vocab_size": 60, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    return [
        hf.GraniteForCausalLM(hf.GraniteConfig(**small, **heads, logits_scaling=8.0)),
        hf.UMT5ForConditionalGeneration(
            hf.UMT5Config(
                vocab_size=60, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
                decoder_start_token_id=0, tie_word_embeddings=True,
            )
        ),
        hf.XLNetLMHeadModel(
            hf.XLNetConfig(vocab_size=60, d_model=32, n_layer=2, n_head=2, d_inner=64)
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("network", odd_networks(), ids=lambda n: type(n).__name__)
def test_networks_with_steps_of_their_own(network: Any) -> None:
    """They are told apart from those that write as is thought here."""
    assert not Backbone(network).reads_and_writes()


@pytest.mark.parametrize("network", networks(), ids=lambda n: type(n).__name__)
def test_networks_that_write(network: Any) -> None:
    """As is thought here, whatever mode they are in, which stays as it is."""
    backbone = Backbone(network.train())
    assert backbone.reads_and_writes()
    assert backbone.training


def test_a_checkpoint_does_not_say_how_to_write(seq2seq: Path, tmp_path: Path) -> None:
    """Its generation_config.json forces and forbids tokens that were learned otherwise here."""
    import json
    import shutil

    folder = tmp_path / "told"
    shutil.copytree(seq2seq, folder)
    settings = {"forced_bos_token_id": 5, "min_length": 7, "repetition_penalty": 9.0}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    application = translation()
    plain, told = moved(learner(seq2seq, application)), learner(folder, application)
    told.heads.load_state_dict(plain.heads.state_dict())
    assert prediction.predict(told, "translation", ROWS) == prediction.predict(
        plain, "translation", ROWS
    )


@pytest.mark.parametrize("network", networks(), ids=lambda n: type(n).__name__)
def test_logits_are_those_of_the_whole_network(network: Any) -> None:
    """Read and written apart, padded between, as transformers has it for each row alone."""
    if hasattr(network, "final_logits_bias"):
        network.final_logits_bias.normal_()
    backbone = Backbone(network.eval())
    examples: Any = [
        {"input_ids": [5, 6, 7, 8], "labels": [9, 3]},
        {"input_ids": [10], "labels": [11, 12, 13, 3]},
    ]
    batch = collate(examples, 0)
    mask, labels = batch["attention_mask"], batch["labels"]
    with torch.no_grad():
        read, written = backbone.decode(batch["input_ids"], mask, labels)
        logits = backbone.project(written)
        for row, example in enumerate(examples):
            prompt, reply = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
            if backbone.kind == "seq2seq":
                expected = network(input_ids=prompt, labels=reply).logits[0]
            else:
                whole = network(torch.cat([prompt, reply], 1)).logits[0]
                expected = whole[prompt.shape[1] - 1 : -1]
            length = reply.shape[1]
            torch.testing.assert_close(logits[row, :length], expected, atol=1e-5, rtol=1e-4)
            alone = backbone.encode(prompt, torch.ones_like(prompt))[0]
            torch.testing.assert_close(read[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)


def test_loss_is_over_the_reply(folder: Path) -> None:
    """Each token of each reply counts once, its end included; a new head changes nothing."""
    application = translation()
    made = learner(folder, application)
    batch = collate(application.encode(ROWS, made.tokenizer), 0)
    out = made("translation", batch)
    _, written = made.backbone.decode(batch["input_ids"], batch["attention_mask"], batch["labels"])
    scored = batch["labels"] != IGNORED
    expected = functional.cross_entropy(
        made.backbone.project(written)[scored], batch["labels"][scored]
    )
    torch.testing.assert_close(out.loss, expected)
    assert int(scored.sum()) == sum(len(row["translation"].split()) + 1 for row in ROWS)


def test_features_are_of_the_prompt(folder: Path) -> None:
    """The same with a reply and without one: it says nothing of the domain's text."""
    application = translation()
    made = learner(folder, application)
    told = made("translation", collate(application.encode(ROWS, made.tokenizer), 0))
    untold = application.encode(ROWS, made.tokenizer, supervised=False)
    asked = made("translation", collate(untold, 0))
    assert asked.loss is None
    assert asked.logits is None
    torch.testing.assert_close(told.features, asked.features, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_equals_unbatched(folder: Path, beams: int) -> None:
    """Padding, on whatever side, changes nothing of what is written."""
    application = translation(beams=beams)
    made = moved(learner(folder, application))
    together = prediction.predict(made, "translation", ROWS)
    alone = [prediction.predict(made, "translation", [row])[0] for row in ROWS]
    assert together == alone
    assert len({found["text"] for found in together}) > 1


def test_greedy_is_the_most_probable_word_by_word(folder: Path) -> None:
    """What is written, given as the reply, is where each token has the largest logit, through
    the head: a head that is not new is used in writing too."""
    application = translation(maximum_new_tokens=5)
    made = moved(learner(folder, application))
    (example,) = application.encode(ROWS[:1], made.tokenizer, supervised=False)
    batch = collate([example], 0)
    with torch.no_grad():
        written = made.backbone.generate(
            made.heads["translation"],
            batch["input_ids"],
            batch["attention_mask"],
            length=5,
            beams=1,
            end=END,
        )
        assert 1 <= written.shape[1] <= 5
        told = made("translation", {**batch, "labels": written})
    assert told.logits.argmax(-1).equal(written)


def test_learns_and_is_served(folder: Path, tmp_path: Path) -> None:
    """Trained on a few pairs it writes them, and so does what was saved."""
    from tasks.learning import loop
    from tasks.learning.batches import Stream, Streams
    from tasks.learning.paradigms.fine_tuning import FineTuning

    application = translation()
    made = learner(folder, application)
    paradigm = FineTuning(kind="fine_tuning")
    stream = Stream(
        "translation", application.encode(ROWS, made.tokenizer), pad_id=0, budget=64, seed=1
    )
    schedule = loop.Schedule(steps=150, learning_rate=5e-3, precision="float32")
    loop.train(made, paradigm, paradigm.plan(Streams(stream)), schedule, tmp_path)
    found = prediction.predict(made, "translation", ROWS)
    assert [one["text"] for one in found] == [row["translation"] for row in ROWS]
    made.save(tmp_path / "learner")
    served = load_learner(tmp_path / "learner", {"translation": application})
    assert prediction.predict(served, "translation", ROWS) == found


def test_kinds(backbone: Path, seq2seq: Path, causal: Path) -> None:
    """What each network can do, and how many layers it has, an encoder's below a decoder's."""
    found = [load_backbone(path) for path in (backbone, seq2seq, causal)]
    assert [one.kind for one in found] == ["encoder", "seq2seq", "causal"]
    assert [len(one.layers()) for one in found] == [2, 2, 2]  # only the encoder's read
    t5 = found[1]
    t5.writes = True
    assert len(t5.layers()) == 4
    assert t5.layers()[0] is t5.network.encoder.block[0]
    assert t5.layers()[-1] is t5.network.decoder.block[-1]
