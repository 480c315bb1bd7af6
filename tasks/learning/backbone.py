"""The network that carries the knowledge, behind one face.

Only safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertTokenizer
from transformers.utils import logging as transformers_logging

from tasks.learning.safety import check_safe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
POOLED = {"albert", "bert", "camembert", "mpnet", "roberta", "xlm-roberta"}
"""Model types whose class takes `add_pooling_layer`."""


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """(B, S, H) states and (B, S) mask -> (B, H): the mean over real tokens."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class Backbone(nn.Module):
    """A pretrained encoder.

    `model` is the transformers network without a task's head.
    """

    def __init__(self, model: Any) -> None:
        """Wrap a loaded network."""
        super().__init__()
        self.model: Any = model  # a PreTrainedModel, or peft's wrapper around one

    @property
    def width(self) -> int:
        """H, the size of a token's state."""
        return int(self.model.config.hidden_size)

    @property
    def maximum_positions(self) -> int | None:
        """The longest input in tokens, or None where the network has no such limit."""
        config = self.model.config
        positions: int | None = getattr(config, "max_position_embeddings", None)
        relative = not getattr(config, "position_biased_input", True)  # DeBERTa v2 and v3
        if positions is None or positions < 0 or relative:
            return None
        table = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)  # RoBERTa counts on from its padding's place
        return positions if padding is None else positions - padding - 1

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S) ids and mask -> (B, S, H) states of the top layer."""
        states: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states

    def layers(self) -> Sequence[nn.Module]:
        """The stack of transformer layers, lowest first."""
        stacks = [list(m) for m in self.model.modules() if isinstance(m, nn.ModuleList)]
        alike = [stack for stack in stacks if len({type(layer) for layer in stack}) == 1]
        return max(alike, key=lambda stack: sum(p.numel() for x in stack for p in x.parameters()))

    def outside(self) -> list[nn.Parameter]:
        """Parameters of no layer: the embeddings, and what the layers share, such as the relative
        positions of MPNet and DeBERTa."""
        inside = {id(p) for layer in self.layers() for p in layer.parameters()}
        return [p for p in self.model.parameters() if id(p) not in inside]

    def digest(self) -> str:
        """sha256 over the configuration and the weights, wherever they were loaded from."""
        config = self.model.config.to_dict()
        told = {k: v for k, v in config.items() if not k.startswith("_")}
        found = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for name, value in self.model.state_dict().items():
            found.update(name.encode())
            found.update(value.cpu().numpy().tobytes())
        return found.hexdigest()

    def set_dropout(self, rate: float) -> None:
        """Dropout everywhere in the network, attention included."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
            for name, value in vars(module).items():  # where it is a number of the module's own
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, rate)

    def add_lora(self, rank: int, alpha: int, dropout: float) -> None:
        """Put low-rank adapters beside every linear layer and freeze everything else."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear"
        )
        self.model = get_peft_model(self.model, config)

    def merge_adapters(self) -> None:
        """Fold adapters into the weights they stand beside; without adapters, nothing."""
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()


def load_backbone(folder: Path) -> Backbone:
    """The backbone in a transformers folder, in float32.

    The pooler is left out: features are means over tokens, so it would never be trained.

    Raises:
        UnsafeBackbone: see `check_safe`.
    """
    check_safe(folder)
    config = AutoConfig.from_pretrained(folder)
    extra = {"add_pooling_layer": False} if config.model_type in POOLED else {}
    model = AutoModel.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, trust_remote_code=False, **extra
    )
    return Backbone(model)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a transformers folder; with nothing but a vocab.txt, BERT's WordPiece."""
    described = any((folder / name).exists() for name in TOKENIZER_FILES)
    kind = BertTokenizer if not described and (folder / "vocab.txt").exists() else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, trust_remote_code=False)
    return tokenizer
