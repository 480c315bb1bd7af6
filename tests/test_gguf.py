"""A backbone in llama.cpp's file format becomes an ordinary one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tasks import source
from tasks.config import BackboneConfig
from tasks.errors import SourceUnavailable, UnsafeModel
from tasks.learning.backbone import load_backbone, load_tokenizer

WORDS = [*"abcdefgh", "ab", "cd", "<|end|>"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}
"""What transformers calls a weight -> what GGUF does."""


def write(
    path: Path, without: str = "", merges: Sequence[str] = ("a b", "c d")
) -> Qwen2ForCausalLM:
    """A random Qwen2 of two layers, in the file, but for one of its tensors, and as it is."""
    from gguf import GGUFWriter

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    network = Qwen2ForCausalLM(config).eval()
    writer = GGUFWriter(path, "qwen2")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(2)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * (len(WORDS) - 1) + [3])
    writer.add_token_merges(list(merges))
    writer.add_eos_token_id(len(WORDS) - 1)
    for name, value in network.state_dict().items():
        for long, short in NAMES.items():
            name = name.replace(long, short)
        if name != without:
            writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return network


def test_read(tmp_path: Path) -> None:
    """The same logits, the same words, once converted and then found."""
    network = write(tmp_path / "tiny.gguf")
    origin = source.locate(BackboneConfig(path=str(tmp_path / "tiny.gguf")))
    found = load_backbone(origin.backbone)
    assert found.kind == "causal"
    ids = torch.tensor([[0, 8, 9, 3]])
    with torch.no_grad():
        torch.testing.assert_close(found.network(ids).logits, network(ids).logits)
    tokenizer = load_tokenizer(origin.backbone)
    assert tokenizer("abcde")["input_ids"] == [8, 9, 4]
    assert tokenizer.eos_token == "<|end|>"
    assert source.locate(BackboneConfig(path=str(tmp_path / "tiny.gguf"))) == origin


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model" * 100])
def test_damaged(tmp_path: Path, content: bytes) -> None:
    """One line, and nothing is left that would be taken for a model."""
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(UnsafeModel, match=r"damaged.gguf: not a GGUF model"):
            source.locate(BackboneConfig(path=str(path)))


def test_cut_short(tmp_path: Path) -> None:
    """As an interrupted download is."""
    path = tmp_path / "damaged.gguf"
    write(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UnsafeModel, match="not a GGUF model"):
        source.locate(BackboneConfig(path=str(path)))


@pytest.mark.parametrize("tensor", ["blk.1.attn_q.weight", "token_embd.weight"])
def test_a_tensor_is_missing(tmp_path: Path, tensor: str) -> None:
    """Random weights in its place would be taken for trained ones."""
    write(tmp_path / "tiny.gguf", without=tensor)
    with pytest.raises(UnsafeModel, match="not a GGUF model that can be read"):
        source.locate(BackboneConfig(path=str(tmp_path / "tiny.gguf")))


def test_a_damaged_vocabulary(tmp_path: Path) -> None:
    """Merges of what is no token."""
    write(tmp_path / "tiny.gguf", merges=("a b", "x y"))
    with pytest.raises(UnsafeModel, match="not a GGUF model that can be read"):
        source.locate(BackboneConfig(path=str(tmp_path / "tiny.gguf")))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is not taken for a hub id."""
    with pytest.raises(SourceUnavailable, match="no such file or folder"):
        source.locate(BackboneConfig(path="models/none.gguf"))
