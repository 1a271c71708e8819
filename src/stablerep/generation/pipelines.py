"""Every text-to-image pipeline of diffusers behind one adapter, painted by its own stock ``__call__``."""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stablerep.errors import UserError
from stablerep.generation.denoiser import compile_denoiser, freezes
from stablerep.generation.folders import load_folder
from stablerep.generation.fused_gelu import fuse_gelu, has_fused_gelu
from stablerep.generation.guidance import guide_within
from stablerep.generation.pictures import Painted, judge
from stablerep.generation.schedulers import choose_scheduler
from stablerep.generation.settings import PaintSettings
from stablerep.generation.text_once import read_text_once
from stablerep.models.weights import quiet_libraries

Parameters = Mapping[str, inspect.Parameter]
Conditioning = Mapping[str, Tensor | str]
"""One prompt as a pipeline takes it: its conditioning tensors (1, ...) by name, or the prompt itself."""

_PAIR = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = (*_PAIR, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)

# PixArt's stock call asks its sampler for the predicted picture where there is one step; these give none.
_ONE_OUTPUT = ("DPMSolverMultistepScheduler", "PNDMScheduler", "UniPCMultistepScheduler")

# What `encode_prompt` returns, for pipelines that pad every prompt to one fixed length: there a prompt can be encoded
# once and used for all its images. Every other pipeline is given the prompts as text, batch by batch, and may pad them
# to the longest of these (CogView 4 and Qwen-Image do), which moves the pictures of the others.
CONDITIONING: dict[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": _PAIR,
    "IFPipeline": _PAIR,
    "StableDiffusionXLPipeline": _POOLED,
    "StableDiffusion3Pipeline": _POOLED,
    "KolorsPipeline": _POOLED,
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds", "text_ids"),
    "PixArtAlphaPipeline": _MASKED,
    "PixArtSigmaPipeline": _MASKED,
    "SanaPipeline": _MASKED,
    "AuraFlowPipeline": _MASKED,
}


def usual_batch_size(class_name: str) -> int:
    """Pictures that a pipeline paints together without one depending on another."""
    return 8 if class_name in CONDITIONING else 1


class DiffusersTeacher:
    """A diffusers pipeline that paints batches of one fixed size."""

    def __init__(self, pipeline: Any, name: str, settings: PaintSettings, weights: Mapping[str, str]) -> None:
        self.name = name
        self.batch_size = settings.batch_size
        self._pipe = pipeline
        self._paint_parameters = inspect.signature(type(pipeline).__call__).parameters
        self._names = CONDITIONING.get(type(pipeline).__name__)
        self._options = _options(settings, self._paint_parameters)
        self._margin = settings.margin
        self.styles = settings.styles
        self._negative_prompt = settings.negative_prompt
        self._negative: dict[str, Tensor] = {}
        self._token_limits = token_limits(pipeline, self._options, self._paint_parameters)
        self.num_truncated = 0
        self.truncated_example: str | None = None
        self.settings = _describe(pipeline, settings, self._options, weights)
        if self._negative_prompt and not self._takes_negative_prompt():
            raise UserError(
                f"teacher {name}: {type(pipeline).__name__} does not take a negative prompt; leave it out"
            )

    @property
    def pipeline(self) -> Any:
        """The pipeline itself, for those who change what it is made of."""
        return self._pipe

    @property
    def unconditional(self) -> Mapping[str, Tensor]:
        """The tensors that stand for no prompt, by name, once a prompt was encoded; empty without guidance."""
        return self._negative

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """One conditioning per prompt. The text encoder always sees ``batch_size`` prompts, the last batch padded."""
        cut = [prompt for prompt in prompts if self.is_truncated(prompt)]
        self.num_truncated += len(cut)
        self.truncated_example = self.truncated_example or next(iter(cut), None)
        if self._names is None:
            return [{"prompt": prompt} for prompt in prompts]
        rows: list[Conditioning] = []
        with torch.inference_mode(), quiet_libraries():
            for begin in range(0, len(prompts), self.batch_size):
                chunk = list(prompts[begin : begin + self.batch_size])
                rows += self._encode_batch(chunk + chunk[-1:] * (self.batch_size - len(chunk)))[: len(chunk)]
        return rows

    def is_truncated(self, prompt: str) -> bool:
        """Whether no tokenizer of the pipeline takes the whole prompt."""
        with quiet_libraries():  # the libraries would print every prompt that they cut
            cut = [len(tokenizer(prompt).input_ids) > limit for tokenizer, limit in self._token_limits]
        return bool(cut) and all(cut)

    def paint(self, conditionings: Sequence[Conditioning], seeds: Sequence[int]) -> Painted:
        """Paint at most ``batch_size`` pictures, picture i from CPU noise of ``seeds[i]`` alone.

        Returns uint8 (B, 3, H, W) and a reason per failure. The batch is padded to ``batch_size``: the size of a batch,
        unlike its other members, changes how a picture is rounded.
        """
        count = len(seeds)
        padding = self.batch_size - count
        padded = [*conditionings, *[conditionings[-1]] * padding]
        generators = [torch.Generator().manual_seed(seed) for seed in [*seeds, *[seeds[-1]] * padding]]
        try:
            with torch.inference_mode():
                output = self._pipe(
                    **self._options, **self._stack(padded), generator=generators, output_type="pt"
                )
        except ValueError as error:  # so diffusers refuses a size, or a number of steps
            raise UserError(f"teacher {self.name}: {error}") from error
        images = getattr(output, "images", None)
        if not isinstance(images, Tensor | np.ndarray):
            raise UserError(
                f"teacher {self.name}: {type(self._pipe).__name__} does not return pictures as arrays"
            )
        painted = judge(images, getattr(output, "nsfw_content_detected", None)).head(count)
        self._require_size_asked(*painted.pictures.shape[-2:])
        try:
            return painted.without_margin(self._margin)
        except ValueError as error:
            raise UserError(f"teacher {self.name}: {error}; give a smaller --margin") from error

    def _require_size_asked(self, height: int, width: int) -> None:
        """Stable Diffusion takes its own size where only one side is given, and FLUX rounds one that does not fit."""
        asked = self._options.get("height", height), self._options.get("width", width)
        if asked != (height, width):
            raise UserError(
                f"teacher {self.name}: asked for height {asked[0]} and width {asked[1]}, "
                f"{type(self._pipe).__name__} painted {height} x {width}; give both --height and --width, of a size "
                "that it takes"
            )

    def _encode_batch(self, prompts: list[str]) -> list[Conditioning]:
        assert self._names is not None
        returned = self._pipe.encode_prompt(**self._encode_arguments(prompts))
        named = zip(self._names, returned, strict=True)
        tensors = {
            name: value for name, value in named if name in self._paint_parameters and value is not None
        }
        self._negative = {name: value for name, value in tensors.items() if name.startswith("negative_")}
        own = {name: value for name, value in tensors.items() if name not in self._negative}
        return [{name: value[row : row + 1] for name, value in own.items()} for row in range(len(prompts))]

    def _takes_negative_prompt(self) -> bool:
        taken = self._names or self._paint_parameters
        return any(name.startswith("negative_prompt") for name in taken)

    def _encode_arguments(self, prompts: list[str]) -> dict[str, Any]:
        """Arguments of ``encode_prompt`` as the stock call fills them; the negative prompt is encoded only once."""
        known: dict[str, Any] = {
            "prompt": prompts,
            "device": self._pipe._execution_device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": True,
            **self._negative_prompts(len(prompts)),
            **self._options,
            **self._negative,
        }
        arguments = {}
        for name, parameter in inspect.signature(self._pipe.encode_prompt).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            stock = self._paint_parameters.get(name, parameter).default
            arguments[name] = known.get(name, None if stock is inspect.Parameter.empty else stock)
        return arguments

    def _stack(self, conditionings: Sequence[Conditioning]) -> dict[str, Any]:
        """Arguments of the stock call for these prompts: text, or tensors joined along the batch."""
        if self._names is None:
            return {
                "prompt": [row["prompt"] for row in conditionings],
                **self._negative_prompts(len(conditionings)),
            }
        joined: dict[str, Any] = {
            name: torch.cat([row[name] for row in conditionings])  # type: ignore[misc]  # tensors in this branch
            for name in conditionings[0]
        }
        for name in ("prompt", "negative_prompt"):
            if name in self._paint_parameters:
                joined[name] = None
        return {**joined, **self._negative}

    def _negative_prompts(self, count: int) -> dict[str, list[str]]:
        return {"negative_prompt": [self._negative_prompt] * count} if self._negative_prompt else {}


def open_pipeline(folder: Path, settings: PaintSettings, device: torch.device) -> Any:
    """Load a checked folder onto ``device``, its sampler and attention chosen; ``UserError`` where it does not fit."""
    pipeline = load_folder(folder, getattr(torch, settings.dtype))
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" not in parameters or "generator" not in parameters:
        raise UserError(f"teacher {folder}: {type(pipeline).__name__} does not paint from text alone")
    pipeline.scheduler = choose_scheduler(pipeline, settings.scheduler)
    sampler = type(pipeline.scheduler).__name__
    if "PixArt" in type(pipeline).__name__ and settings.num_inference_steps == 1 and sampler in _ONE_OUTPUT:
        raise UserError(
            f"teacher {folder}: {type(pipeline).__name__} does not paint in one step with {sampler}; give at least 2"
        )
    if settings.attention == "plain":
        _use_plain_attention(pipeline)
    if settings.compile:
        compile_denoiser(pipeline, device)
    else:  # a compiler can trace through neither of these
        read_text_once(pipeline)
        fuse_gelu(pipeline, device)
    if settings.guidance_interval is not None:
        guide_within(pipeline, settings.guidance_interval, settings.batch_size)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _use_plain_attention(pipeline: Any) -> None:
    for model in pipeline.components.values():
        processors = getattr(model, "attn_processors", None)
        # Only where the model uses the general fused processor: other classes compute something else.
        if processors and all(type(processor) is AttnProcessor2_0 for processor in processors.values()):
            model.set_attn_processor(AttnProcessor())


def _options(settings: PaintSettings, parameters: Parameters) -> dict[str, Any]:
    """What the stock call is given beside prompts and noise; ``UserError`` for a size that it does not take."""
    wanted = {
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "height": settings.height,
        "width": settings.width,
        "max_sequence_length": settings.max_sequence_length,
        # Both would change what was asked: the size to a listed one, the prompt by a clean-up for web text.
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    for name in ("height", "width", "max_sequence_length"):
        if wanted[name] is not None and name not in parameters:
            raise UserError(f"the teacher's pipeline does not take {name}={wanted[name]}; leave it out")
    return {name: value for name, value in wanted.items() if value is not None and name in parameters}


def token_limits(pipeline: Any, options: Mapping[str, Any], parameters: Parameters) -> list[tuple[Any, int]]:
    """Each tokenizer with the number of tokens of which the text encoder gets to see the first."""
    tokenizers = [part for part in pipeline.components.values() if isinstance(part, PreTrainedTokenizerBase)]
    asked = options.get("max_sequence_length")
    if asked is None and "max_sequence_length" in parameters:
        asked = parameters["max_sequence_length"].default
    return [(one, min(one.model_max_length, asked or one.model_max_length)) for one in tokenizers]


def _describe(
    pipeline: Any, settings: PaintSettings, options: Mapping[str, Any], weights: Mapping[str, str]
) -> dict[str, Any]:
    """What determines the pixels, as plain JSON values; what the pipeline has no use for is None."""
    scheduler = pipeline.scheduler
    device = torch.device(pipeline._execution_device).type
    described = {
        "pipeline": type(pipeline).__name__,
        "weights": dict(weights),
        "scheduler": {
            "class": type(scheduler).__name__,
            **{key: _finite(value) for key, value in scheduler.config.items() if not key.startswith("_")},
        },
        **{name: options.get(name) for name in ("num_inference_steps", "guidance_scale", "height", "width")},
        "max_sequence_length": options.get("max_sequence_length"),
        "negative_prompt": settings.negative_prompt,
        "styles": list(settings.styles),
        "dtype": settings.dtype,
        "attention": settings.attention,
        "batch_size": settings.batch_size,
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
    }
    # Only where they are set, as tables painted before know no such settings.
    if settings.guidance_interval is not None:
        described["guidance_interval"] = list(settings.guidance_interval)
    if settings.margin:
        described["margin"] = settings.margin
    if has_fused_gelu(pipeline):
        described["gelu"] = "fused"
    if settings.compile:
        described["compile"] = "frozen" if freezes(torch.device(device)) else True
    if switches := _switches(pipeline):
        described["switches"] = switches
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def _switches(pipeline: Any) -> dict[str, Any]:
    """What ``model_index.json`` sets otherwise than the pipeline's class, such as what stands for an empty prompt."""
    usual = inspect.signature(type(pipeline).__init__).parameters
    unused = ("requires_safety_checker", *pipeline.components)  # the first only warns
    return {
        name: value
        for name, value in pipeline.config.items()
        if name in usual and name not in unused and value != usual[name].default
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity, which some samplers have among their settings."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
