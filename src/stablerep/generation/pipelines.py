"""Every text-to-image pipeline of diffusers behind one adapter, painted by its own stock ``__call__``."""

import contextlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from stablerep.errors import UserError
from stablerep.generation.pictures import Painted, judge
from stablerep.generation.settings import PUBLISHED_SCHEDULER, PaintSettings, SchedulerName

Conditioning = Mapping[str, Tensor | str]
"""One prompt as a pipeline takes it: its conditioning tensors (1, ...) by name, or the prompt itself."""

SCHEDULERS: dict[SchedulerName, str | None] = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "teacher": None,
}

_PAIR = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = (*_PAIR, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)

# What `encode_prompt` returns, for pipelines that pad every prompt to one fixed length: there a prompt can be encoded
# once and used for all its images. Every other pipeline is given the prompts as text, batch by batch.
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


class DiffusersTeacher:
    """A diffusers pipeline that paints batches of one fixed size."""

    def __init__(self, pipeline: Any, name: str, settings: PaintSettings, weights: Mapping[str, str]) -> None:
        self.name = name
        self.batch_size = settings.batch_size
        self._pipe = pipeline
        self._paint_parameters = inspect.signature(type(pipeline).__call__).parameters
        self._negative_prompt = settings.negative_prompt
        self._options = self._supported_options(settings)
        self._names = CONDITIONING.get(type(pipeline).__name__)
        self._negative: dict[str, Tensor] = {}
        self.settings = _describe(pipeline, settings, weights)

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """One conditioning per prompt. The text encoder always sees ``batch_size`` prompts, the last batch padded."""
        if self._names is None:
            return [{"prompt": prompt} for prompt in prompts]
        rows: list[Conditioning] = []
        for begin in range(0, len(prompts), self.batch_size):
            chunk = list(prompts[begin : begin + self.batch_size])
            rows += self._encode_batch(chunk + chunk[-1:] * (self.batch_size - len(chunk)))[: len(chunk)]
        return rows

    def paint(self, conditionings: Sequence[Conditioning], seeds: Sequence[int]) -> Painted:
        """Paint at most ``batch_size`` pictures, picture i from CPU noise of ``seeds[i]`` alone.

        Returns uint8 (B, 3, H, W) and a reason per failure. The batch is padded to ``batch_size``, because the size of a
        batch, unlike its other members, changes how a picture is rounded.
        """
        count = len(seeds)
        padding = self.batch_size - count
        padded = [*conditionings, *[conditionings[-1]] * padding]
        generators = [torch.Generator().manual_seed(seed) for seed in [*seeds, *[seeds[-1]] * padding]]
        with torch.inference_mode():
            output = self._pipe(
                **self._options, **self._stack(padded), generator=generators, output_type="pt"
            )
        images = getattr(output, "images", None)
        if not hasattr(images, "shape"):
            raise UserError(
                f"teacher {self.name}: {type(self._pipe).__name__} returns no pictures; give a text-to-image one"
            )
        return judge(images, getattr(output, "nsfw_content_detected", None)).head(count)

    def _supported_options(self, settings: PaintSettings) -> dict[str, Any]:
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
        return {name: v for name, v in wanted.items() if name in self._paint_parameters and v is not None}

    def _encode_batch(self, prompts: list[str]) -> list[Conditioning]:
        assert self._names is not None
        with torch.inference_mode():
            returned = self._pipe.encode_prompt(**self._encode_arguments(prompts))
        named = zip(self._names, returned, strict=True)
        tensors = {
            name: value for name, value in named if name in self._paint_parameters and value is not None
        }
        self._negative = {name: value for name, value in tensors.items() if name.startswith("negative_")}
        own = {name: value for name, value in tensors.items() if name not in self._negative}
        return [{name: value[row : row + 1] for name, value in own.items()} for row in range(len(prompts))]

    def _encode_arguments(self, prompts: list[str]) -> dict[str, Any]:
        """Arguments of ``encode_prompt`` as the stock call fills them; the negative prompt is encoded the first time only."""
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
    """Load a checked folder onto ``device``, with its sampler and attention chosen; ``UserError`` where it does not fit."""
    try:
        with _quiet():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                folder,
                torch_dtype=getattr(torch, settings.dtype),
                use_safetensors=True,
                local_files_only=True,
            )
    except (OSError, ValueError) as error:
        raise UserError(f"teacher {folder} cannot be loaded: {error}") from error
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" not in parameters or "generator" not in parameters:
        raise UserError(
            f"teacher {folder}: {type(pipeline).__name__} paints nothing from text; give a text-to-image one"
        )
    pipeline.scheduler = choose_scheduler(pipeline, settings.scheduler)
    if settings.attention == "plain":
        _use_plain_attention(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def choose_scheduler(pipeline: Any, asked: SchedulerName | None) -> Any:
    """The sampler: the one asked for; or, if none was, the published one where it fits, else the teacher's own."""
    own = pipeline.scheduler
    name = asked or (PUBLISHED_SCHEDULER if _fits(PUBLISHED_SCHEDULER, own) else "teacher")
    class_name = SCHEDULERS[name]
    if class_name is None or class_name == type(own).__name__:
        return own
    if not _fits(name, own):
        fitting = ", ".join(option for option in SCHEDULERS if _fits(option, own))
        raise UserError(
            f"scheduler {name!r} does not fit the teacher's {type(own).__name__}; fitting: {fitting}"
        )
    kind = getattr(diffusers, class_name)
    options = {}
    if "clip_sample" not in own.config and "clip_sample" in inspect.signature(kind).parameters:
        # The class default clips to [-1, 1], which is meant for pixels; latents go beyond.
        options["clip_sample"] = not hasattr(pipeline, "vae")
    return kind.from_config(own.config, **options)


def _fits(name: SchedulerName, own: Any) -> bool:
    class_name = SCHEDULERS[name]
    if class_name is None or class_name == type(own).__name__:
        return True
    kind = getattr(diffusers, class_name)
    is_flow = own.config.get("use_flow_sigmas") or own.config.get("prediction_type") == "flow_prediction"
    return kind in own.compatibles and (
        not is_flow or "use_flow_sigmas" in inspect.signature(kind).parameters
    )


def _use_plain_attention(pipeline: Any) -> None:
    for model in pipeline.components.values():
        processors = getattr(model, "attn_processors", None)
        # Only where the model uses the general fused processor: other classes compute something else.
        if processors and all(type(processor) is AttnProcessor2_0 for processor in processors.values()):
            model.set_attn_processor(AttnProcessor())


def _describe(pipeline: Any, settings: PaintSettings, weights: Mapping[str, str]) -> dict[str, Any]:
    """What determines the pixels, as plain JSON values."""
    scheduler = pipeline.scheduler
    options = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    device = torch.device(pipeline._execution_device).type
    described = {
        "pipeline": type(pipeline).__name__,
        "weights": dict(weights),
        "scheduler": {"class": type(scheduler).__name__, **options},
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        **{name: value for name, value in vars(settings).items() if name != "scheduler"},
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, sort_keys=True, default=str))
    return plain


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the bars and notes of diffusers and transformers; their settings are put back."""
    modules = (diffusers.utils.logging, transformers.utils.logging)
    before = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, (verbosity, bars) in zip(modules, before, strict=True):
            module.set_verbosity(verbosity)
            if bars:
                module.enable_progress_bar()
