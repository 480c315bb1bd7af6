"""A vocabulary and a network made from nothing but rows."""

from __future__ import annotations

import torch

from tasks.config import NewBackbone
from tasks.learning.backbone import Backbone
from tasks.scratch import network, vocabulary

TEXTS = ["App settings", "ئەپ تەڭشىكى", "Uygulama ayarları", "Қолданба баптаулары"] * 3
SMALL = NewBackbone(vocabulary=320, width=32, layers=2, heads=2, feed_forward=64)


def test_nothing_is_unknown() -> None:
    """Texts of any script come back as they were, also those that were never seen; each ends."""
    tokenizer = vocabulary(iter(TEXTS), 320)
    assert len(tokenizer) <= 320
    for text in (*TEXTS[:4], "नेपाली 漢字 🦊", "  two  blanks"):
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.strip()


def test_frequent_words_are_one() -> None:
    """What occurs often is a sub-word of its own."""
    tokenizer = vocabulary(iter(["settings"] * 20), 400)
    assert len(tokenizer("settings")["input_ids"]) == 2  # and the end


def test_the_network_follows_from_the_seed() -> None:
    """The same seed draws the same weights; its embeddings are shared by all that read or write."""
    tokenizer = vocabulary(iter(TEXTS), 320)
    one, again, other = (network(SMALL, tokenizer, seed) for seed in (1, 1, 2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(one.model.shared.weight, other.model.shared.weight)
    assert one.get_output_embeddings().weight is one.model.shared.weight
    backbone = Backbone(one)
    backbone.writes = True
    assert backbone.reads_and_writes()
    assert (backbone.kind, backbone.width, len(backbone.layers())) == ("seq2seq", 32, 4)
