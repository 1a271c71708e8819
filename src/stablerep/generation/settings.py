"""How pictures are painted: what the user may ask for, what a teacher says of itself, and what follows from both."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from tyro.conf import Positional

from stablerep.cluster import EngineConfig

SchedulerName = Literal["ddim", "dpmsolver++", "pndm", "euler", "unipc", "teacher"]
DtypeName = Literal["float32", "float16", "bfloat16"]
AttentionName = Literal["auto", "fused", "plain"]
FormatName = Literal["jpeg", "png", "webp"]

# The settings of StableRep (Tian et al. 2023) for Stable Diffusion 1.5: DDIM, 50 steps, guidance 2.
PUBLISHED_STEPS = 50
PUBLISHED_GUIDANCE = 2.0
PUBLISHED_SCHEDULER: SchedulerName = "ddim"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PaintConfig:
    """How a teacher paints. None takes what the teacher's folder says in ``stablerep.json``, else what is published."""

    num_inference_steps: int | None = None
    """Denoising steps; published: 50."""
    guidance_scale: float | None = None
    """Classifier-free guidance scale; published: 2.0."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only at times between these, where 0 is the finished picture and 1 pure noise, such as 0.2 0.9; steps
    outside cost half. At all times where neither this nor the teacher says."""
    negative_prompt: str = ""
    """What the pictures should not show; empty: the pipeline's own default."""
    scheduler: SchedulerName | None = None
    """Sampler; published: ddim, where the teacher's noise schedule allows it, else the one in the teacher's folder."""
    height: int | None = None
    """Height to paint, in pixels; the pipeline's own where neither says."""
    width: int | None = None
    """Width to paint, in pixels; the pipeline's own where neither says."""
    margin: int | None = None
    """Pixels cut off every side of what is painted; as many as the teacher says where not given."""
    dtype: DtypeName | None = None
    """Precision of the weights; where the teacher does not say: float16 on a GPU, bfloat16 on a CPU that computes in
    it, float32 elsewhere."""
    attention: AttentionName = "auto"
    """Attention kernel, where the pipeline has the choice; auto: plain in bfloat16 on a CPU, else torch's fused one."""
    compile: bool = False
    """Compile the denoising model before painting, which takes about a minute and pays from some thousand pictures on.
    Pixels are rounded otherwise, so it belongs to the fingerprint."""
    batch_size: int | None = None
    """Pictures painted together; every batch has this size. Where the teacher does not say: 8, or 1 for pipelines that
    may pad a prompt to the longest of its batch, so that its picture would depend on the others."""
    styles: tuple[str, ...] | None = None
    """Styles to paint in: image index i is asked for in style i mod their number, as "a red apple, STYLE"; the
    teacher's own where not given, none where empty."""
    device: str = "auto"
    """Where to paint: cpu, cuda, cuda:1, mps; auto takes every GPU of this machine, else the CPU."""
    download: bool = False
    """Fetch a teacher given by its hub id if it is not in the local cache yet."""

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "height", "width", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.margin is not None and self.margin < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite, got {self.guidance_scale}")
        if (
            self.guidance_interval is not None
            and not 0
            <= min(self.guidance_interval)
            < max(self.guidance_interval)
            == self.guidance_interval[1]
        ):
            raise ValueError(
                f"guidance_interval must be two times in order, from 0, got {self.guidance_interval}"
            )


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(EngineConfig, PaintConfig):
    """Paint ``num_images`` pictures for every caption; what is there already is not painted again."""

    captions: Positional[Path] = Path("captions.lance")
    """Caption table."""
    out: Path = Path("images.lance")
    """Image table to add to; created where there is none."""
    teacher: str = "icons"
    """A shipped teacher by name, the path of a diffusers folder, or a hub id."""
    num_images: int = 10
    """Pictures per caption (K); published: 10 for CC12M and RedCaps."""
    size: int | None = None
    """Short side to store, in pixels, never enlarged; published: 256 for pictures of 512 or more; else as painted."""
    format: FormatName = "jpeg"
    """Encoding of the stored pictures."""
    quality: int = 95
    """Quality of JPEG and WebP, 1 to 100."""
    seed: int = 0
    """Run seed: together with caption and image index it determines a picture's noise."""
    where: str | None = None
    """Only the captions that match this filter, such as "split = 'train' AND template = 'primary'"."""
    limit: int | None = None
    """At most so many captions, the first in the order of their ids: a random but fixed choice."""
    repaint: bool = False
    """After an audit: rejected and failed pictures no longer count towards ``num_images``, and further ones are painted
    under new image indices, each with the seed of its index, until enough are kept or ``max_images`` is reached. No
    picture is deleted. A picture that no audit has judged yet counts as kept, so audit and repaint in turn."""
    max_images: int | None = None
    """With ``repaint``: image indices that a caption may use in all; twice ``num_images`` where not given."""
    keep: str = "keep"
    """With ``repaint``: the column of the table that says which pictures are kept."""
    commit_seconds: float = 10.0
    """How often finished pictures are committed; a killed process loses at most the work since."""
    dry_run: bool = False
    """Say what would be painted, how long it would take and how large it would be; write nothing."""

    def __post_init__(self) -> None:
        PaintConfig.__post_init__(self)
        EngineConfig.__post_init__(self)
        if self.num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {self.num_images}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be within 1 to 100, got {self.quality}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.max_images is not None and self.max_images < self.num_images:
            raise ValueError(
                f"max_images must be at least num_images ({self.num_images}), got {self.max_images}"
            )
        if self.max_images is not None and not self.repaint:
            raise ValueError("max_images limits what repaint adds; give repaint as well, or leave it out")

    @property
    def budget(self) -> int:
        """Image indices that a caption may use when it is repainted."""
        return 2 * self.num_images if self.max_images is None else self.max_images


@dataclass(frozen=True, kw_only=True)
class TeacherDefaults:
    """What a pipeline folder says of itself in its extra file ``stablerep.json``."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    scheduler: SchedulerName | None = None
    height: int | None = None
    width: int | None = None
    margin: int = 0
    dtype: DtypeName | None = None
    batch_size: int | None = None
    max_sequence_length: int | None = None
    """Tokens of a prompt that the text encoder reads, for pipelines that let the caller choose."""
    styles: tuple[str, ...] = ()
    """Styles that the teacher can be asked for."""


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """The outcome: nothing is left to choose but the sampler, which must first be held against the pipeline."""

    num_inference_steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float] | None
    negative_prompt: str
    scheduler: SchedulerName | None
    height: int | None
    width: int | None
    margin: int
    max_sequence_length: int | None
    dtype: DtypeName
    attention: Literal["fused", "plain"]
    compile: bool
    batch_size: int
    styles: tuple[str, ...]


def resolve(
    config: PaintConfig, defaults: TeacherDefaults, device: torch.device, usual_batch_size: int
) -> PaintSettings:
    """Lay what the user asked over what the teacher says over what is published, or usual for its pipeline."""
    usual = _natural_dtype(device)
    dtype = _first(config.dtype, defaults.dtype, usual)
    return PaintSettings(
        num_inference_steps=_first(config.num_inference_steps, defaults.num_inference_steps, PUBLISHED_STEPS),
        guidance_scale=_first(config.guidance_scale, defaults.guidance_scale, PUBLISHED_GUIDANCE),
        guidance_interval=config.guidance_interval or defaults.guidance_interval,
        negative_prompt=config.negative_prompt,
        scheduler=config.scheduler or defaults.scheduler,
        height=config.height or defaults.height,
        width=config.width or defaults.width,
        margin=_first(config.margin, defaults.margin, 0),
        max_sequence_length=defaults.max_sequence_length,
        dtype=dtype,
        attention=_attention(config.attention, dtype, device),
        compile=config.compile,
        batch_size=_first(config.batch_size, defaults.batch_size, usual_batch_size),
        styles=_first(config.styles, defaults.styles, ()),
    )


def _first(asked: T | None, said: T | None, published: T) -> T:
    if asked is not None:
        return asked
    return published if said is None else said


def _natural_dtype(device: torch.device) -> DtypeName:
    """A rule rather than a measurement, for the reason given at ``_attention``."""
    if device.type == "cuda":
        return "float16"
    abilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bfloat16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"


def _attention(asked: AttentionName, dtype: DtypeName, device: torch.device) -> Literal["fused", "plain"]:
    """A rule rather than a measurement at start: the choice moves pixels, so it must not depend on the load.

    One thread of an AVX-512 server CPU, 20 M parameter PixArt, 64 tokens: plain attention takes 8-11 % off a step in
    bfloat16 and adds 7-10 % in float32.
    """
    if asked != "auto":
        return asked
    return "plain" if device.type == "cpu" and dtype == "bfloat16" else "fused"
