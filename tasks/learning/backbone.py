"""The network that carries the knowledge, behind one face: encoder, seq2seq or causal.

    encoder   reads a text
    seq2seq   its encoder reads a text, its decoder writes another (T5, Marian)
    causal    reads a text and writes on (GPT, Llama)

Only safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertTokenizer,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from tasks.learning.contracts import IGNORED
from tasks.learning.safety import check_safe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
# On an H100 attention would be cuDNN's, which compiles for each shape that it has not met, and
# hardly two batches have the same: benchmarks/RESULTS.md, "On a GPU".
torch.backends.cuda.enable_cudnn_sdp(False)


WRITING = Lock()
"""Held while a text is written: the head is put before the network's projection for so long."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
POOLED = {"albert", "bert", "camembert", "mpnet", "roberta", "xlm-roberta"}
"""Model types whose class takes `add_pooling_layer`."""


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """(B, S, H) states and (B, S) mask -> (B, H): the mean over real tokens."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class Backbone(nn.Module):
    """A pretrained network.

    `model` is transformers' own: an encoder without any head, a generating one with the output
    projection onto its vocabulary.
    """

    def __init__(self, model: Any, untrained: Sequence[str] = ()) -> None:
        """Wrap a loaded network; `untrained` are the weights that its files lack."""
        super().__init__()
        self.model: Any = model  # a PreTrainedModel, or peft's wrapper around one
        self.untrained = list(untrained)
        self.writes = False  # whether a task uses the decoder of a seq2seq network
        if hasattr(model, "generation_config"):  # how to write is the application's to say
            model.generation_config = GenerationConfig()

    @property
    def kind(self) -> Literal["encoder", "seq2seq", "causal"]:
        """What it can do."""
        return kind_of(self.model.config)

    @property
    def width(self) -> int:
        """H, the size of a token's state."""
        return int(self.model.config.hidden_size)

    @property
    def maximum_positions(self) -> int | None:
        """The longest input in tokens, or None where the network has no such limit."""
        config = self.model.config
        positions = places(config, "max_encoder_position_embeddings")
        relative = not getattr(config, "position_biased_input", True)  # DeBERTa v2 and v3
        if positions is None or positions < 0 or relative:
            return None
        table = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)  # RoBERTa counts on from its padding's place
        return positions if padding is None else positions - padding - 1

    @property
    def maximum_written(self) -> int | None:
        """The longest text in tokens that a seq2seq network can write, or None likewise."""
        return places(self.model.config, "max_decoder_position_embeddings")

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S) ids and mask -> (B, S, H) states of the top layer that reads."""
        states: Tensor = self._reader()(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states

    def decode(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read a text, and then, word by word, the one that is to be written.

        Args:
            input_ids: (B, S), padded on the right.
            attention_mask: (B, S).
            labels: (B, T), IGNORED where a shorter text has ended.

        Returns:
            (B, S, H) states of the text that is read, and (B, T, H) what `project` predicts each
            label from.
        """
        known = labels[:, :-1]  # the last one is never read
        written = known.masked_fill(known == IGNORED, 0)
        if self.kind == "seq2seq":
            return self._decode_seq2seq(input_ids, attention_mask, written)
        mask = torch.cat([attention_mask, (known != IGNORED).to(attention_mask.dtype)], 1)
        states = self._reader()(
            input_ids=torch.cat([input_ids, written], 1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),  # padding lies between the texts
            use_cache=False,
        ).last_hidden_state
        read, after = states.split([input_ids.shape[1], written.shape[1]], 1)
        last = attention_mask.sum(1) - 1
        first = read[torch.arange(len(read), device=read.device), last]
        return read, torch.cat([first.unsqueeze(1), after], 1)

    def _decode_seq2seq(
        self, input_ids: Tensor, attention_mask: Tensor, written: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `decode`; the decoder's first input is the network's start token."""
        config = self.network.config
        read = self.encode(input_ids, attention_mask)
        start = written.new_full((len(written), 1), config.decoder_start_token_id)
        states = self.network.get_decoder()(
            input_ids=torch.cat([start, written], 1),
            encoder_hidden_states=read,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        ).last_hidden_state
        # T5 with tied embeddings shrinks them; in transformers this is in its forward pass only.
        scale = self.width**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        return read, states * scale

    def project(self, states: Tensor) -> Tensor:
        """(..., H) what `decode` gave for a label -> (..., V) logits over the vocabulary."""
        logits: Tensor = self.network.get_output_embeddings()(states)
        bias = getattr(self.network, "final_logits_bias", None)  # Marian, BART
        return logits if bias is None else logits + bias[0]

    def generate(
        self,
        head: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        length: int,
        beams: int,
        end: int,
        sampling: tuple[float, float] | None = None,
        streamer: Any = None,
    ) -> Tensor:
        """Write a text to each that is read.

        Args:
            head: corrects what `project` reads.
            input_ids: (B, S), padded on the right.
            attention_mask: (B, S).
            length: tokens to be written at most.
            beams: texts followed side by side; 1: word by word the most probable.
            end: the token that ends a text, and fills up those that ended before others.
            sampling: temperature and top p, by torch's generator; None: the most probable.
            streamer: transformers', which is told each token at once; of one text, without beams.

        Returns:
            (B, T) ids, T at most `length`, of what was written alone.
        """
        if self.kind == "causal":  # what is written must follow at once on what is read
            input_ids, attention_mask = padded_left(input_ids, attention_mask)
        settings = GenerationConfig(
            max_new_tokens=length,
            num_beams=beams,
            do_sample=sampling is not None,
            temperature=sampling[0] if sampling else None,
            top_p=sampling[1] if sampling else None,
            top_k=0 if sampling else None,  # or transformers draws from the 50 most probable
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=getattr(self.network.config, "decoder_start_token_id", None),
        )
        with WRITING:
            corrected = self.network.get_output_embeddings().register_forward_pre_hook(
                lambda _, states: (head(states[0]),)
            )
            try:
                ids: Tensor = self.network.generate(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    generation_config=settings,
                    streamer=streamer,
                )
            finally:
                corrected.remove()
        return ids[:, input_ids.shape[1] if self.kind == "causal" else 1 :]

    @property
    def writes_as_trained(self) -> bool:
        """Whether its files have the projection that it writes with."""
        return not any("lm_head" in name for name in self.untrained)

    def reads_and_writes(self) -> bool:
        """Whether `decode` and `project` do what the network itself does, and no label is predicted
        from a later one: tried on one short text, since networks have steps of their own."""
        device = next(self.model.parameters()).device
        text = torch.tensor([[5, 6, 7]], device=device)
        labels = torch.tensor([[8, 9, 10]], device=device)
        other = torch.tensor([[8, 11, 12]], device=device)
        mask = torch.ones_like(text)
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                found = self.project(self.decode(text, mask, labels)[1])
                again = self.project(self.decode(text, mask, other)[1])
                if self.kind == "seq2seq":
                    own = self.network(input_ids=text, labels=labels).logits
                else:
                    own = self.network(torch.cat([text, labels], 1)).logits[:, 2:-1]
        except (RuntimeError, TypeError, AttributeError):
            return False
        finally:
            self.train(was)
        near = 1e-3 * float(own.abs().max())
        blind = found[:, :2].allclose(again[:, :2], atol=near)
        return blind and bool(own.allclose(found, atol=near))

    @property
    def network(self) -> Any:
        """The transformers model itself, without peft's wrapper; adapters are in its layers."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _reader(self) -> Callable[..., Any]:
        """The part that turns a text into states."""
        network = self.network
        if self.kind == "seq2seq":
            return network.get_encoder()  # type: ignore[no-any-return]
        if self.kind == "causal":
            return getattr(network, network.base_model_prefix)  # type: ignore[no-any-return]
        return self.model  # type: ignore[no-any-return]

    def layers(self) -> Sequence[nn.Module]:
        """The stack of transformer layers, lowest first; above an encoder's are those of its
        decoder, where a task writes."""
        network = self.network
        if self.kind != "seq2seq":
            return stack(network)
        decoder = stack(network.get_decoder()) if self.writes else []
        return [*stack(network.get_encoder()), *decoder]

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


def padded_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S) ids and mask, the padding moved from the end of each row to its start."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    padding = (1 - attention_mask).sum(1, keepdim=True)
    order = (places - padding) % input_ids.shape[1]
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def stack(network: nn.Module) -> Sequence[nn.Module]:
    """The largest list of modules all of one class: a network's layers, lowest first."""
    lists = [list(m) for m in network.modules() if isinstance(m, nn.ModuleList)]
    alike = [found for found in lists if len({type(layer) for layer in found}) == 1]
    return max(alike, key=lambda found: sum(p.numel() for x in found for p in x.parameters()))


def places(config: Any, apart: str) -> int | None:
    """How many positions a network has; `apart` is the setting of those that have others for what
    they read and for what they write, as LED."""
    found: int | None = getattr(config, "max_position_embeddings", getattr(config, apart, None))
    return found


def kind_of(config: Any) -> Literal["encoder", "seq2seq", "causal"]:
    """What a network with this configuration can do; BERT and its like are encoders, though
    transformers could run them from left to right."""
    if config.is_encoder_decoder:
        return "seq2seq"
    model_type = config.model_type
    left_to_right = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return (
        "causal"
        if left_to_right and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        else "encoder"
    )


LOADERS = {"encoder": AutoModel, "seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM}


def load_backbone(folder: Path) -> Backbone:
    """The backbone in a transformers folder, in float32.

    An encoder's pooler is left out: features are means over tokens, so it would never be trained.

    Raises:
        UnsafeBackbone: see `check_safe`.
    """
    check_safe(folder)
    config = AutoConfig.from_pretrained(folder)
    extra = {"add_pooling_layer": False} if config.model_type in POOLED else {}
    model, told = LOADERS[kind_of(config)].from_pretrained(
        folder,
        use_safetensors=True,
        dtype=torch.float32,
        trust_remote_code=False,
        output_loading_info=True,
        **extra,
    )
    return Backbone(model, sorted(told["missing_keys"]))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a transformers folder; with nothing but a vocab.txt, BERT's WordPiece.

    One without a padding token, as causal networks have them, pads with what ends a text: padding
    is masked, whatever it is.
    """
    described = any((folder / name).exists() for name in TOKENIZER_FILES)
    kind = BertTokenizer if not described and (folder / "vocab.txt").exists() else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
