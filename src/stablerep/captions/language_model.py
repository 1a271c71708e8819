"""Captions by a causal language model from a local folder or the hub's cache, seeded by batch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from stablerep.errors import UserError
from stablerep.runtime import pick_device


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a language model writes; published: temperature 0.8, top-p 0.9, 3 examples (SynCLR)."""

    temperature: float = 0.8
    """Above 0; lower is more predictable."""
    top_p: float = 0.9
    """Only the likeliest tokens that make up this share are drawn from."""
    num_examples: int = 3
    """In-context examples in each prompt."""
    max_tokens: int = 48
    """A caption has at most so many tokens."""
    batch_size: int = 16
    """Captions written together; part of what determines them."""
    device: str = "auto"
    """Where to run the model."""
    download: bool = False
    """Fetch a model given by its hub id if it is not in the local cache yet."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature must be above 0 and top_p within (0, 1], got {self.temperature}, {self.top_p}"
            )
        if min(self.max_tokens, self.batch_size) < 1 or self.num_examples < 0:
            raise ValueError("max_tokens and batch_size must be at least 1, num_examples at least 0")


class LanguageModel:
    """A causal language model that completes prompts; the same batch and seed give the same text on one machine."""

    def __init__(self, name_or_path: str, config: SamplingConfig) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._config = config
        self._device = pick_device(config.device)
        options = {"local_files_only": not config.download, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left", **options)
            # Safetensors only: a pickle can run code when it is opened.
            model = AutoModelForCausalLM.from_pretrained(name_or_path, use_safetensors=True, **options)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"no causal language model in safetensors could be opened from {name_or_path!r} "
                f"({str(error).splitlines()[0]}); give a transformers folder, or a hub id with --sampling.download"
            ) from error
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = model.to(self._device).eval()

    @property
    def fingerprint(self) -> str:
        """Identity of the weights: 16 digits of the hash of every parameter."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def complete(self, prompts: Sequence[str], seed: int) -> list[str]:
        """One completion per prompt, drawn from ``seed``; depends on the whole batch, so batches must not change."""
        config = self._config
        inputs = self._tokenizer(list(prompts), return_tensors="pt", padding=True).to(self._device)
        inputs.pop("token_type_ids", None)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            output = self._model.generate(
                **inputs,
                do_sample=True,
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=0,
                max_new_tokens=config.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        length = inputs["input_ids"].shape[1]
        texts: list[str] = self._tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        return texts


def model_name(name_or_path: str) -> str:
    """The last part of a path or hub id."""
    return Path(name_or_path).name
