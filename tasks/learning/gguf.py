"""Models published as GGUF, llama.cpp's single file of quantized weights and vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.learning.safety import UnsafeBackbone


def from_gguf(file: Path, target: Path) -> None:
    """Write the model to `target` as a transformers folder, its weights as float32 safetensors.

    They are what the quantized ones stand for, not what they were before. Nothing in the file is
    code but the chat template, which transformers runs in a sandbox.

    Raises:
        UnsafeBackbone: it is damaged, or of an architecture that transformers does not read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises no other for a vocabulary that is damaged
        first = str(error).partition("\n")[0][:150]
        raise UnsafeBackbone(f"{file}: not a GGUF model that can be read ({first})") from error
    model, told = loaded
    if missing := sorted(told["missing_keys"]):
        raise UnsafeBackbone(f"{file}: not a GGUF model that can be read (it lacks {missing[0]})")
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # or it could not be saved
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
