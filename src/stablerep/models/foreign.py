"""Encoders of other libraries by name, folder or file: timm's and open_clip's vision transformers.

``timm:NAME``, ``timm:NAME@FILE``, ``open_clip:NAME@FILE``, ``open_clip:NAME/TAG``; folders as timm and open_clip write
them; weight files in a layout that ``convert`` knows. Names without a file are looked up in the hub's cache; nothing is
fetched unless ``download`` is set.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import checkpoint_filter_fn
from tokenizers import Tokenizer
from torch import Tensor

from stablerep.errors import UserError
from stablerep.models import convert, weights
from stablerep.models.encoder import Encoder, EncoderConfig, empty_encoder
from stablerep.models.joint import ImageText, NoTextTowerError, empty_image_text
from stablerep.models.text import ClipVocabulary, LearnedVocabulary, TextConfig, Vocabulary
from stablerep.run import read_json

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
TIMM_CONFIG = "config.json"
TIMM_WEIGHTS = "model.safetensors"

_NAMED = re.compile(r"(timm|open_clip):([^@/]+)(?:/([^@]+))?(?:@(.+))?")
_TIMM_FIELDS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "num_heads",
}
# What a text or vision tower of open_clip may say beside its sizes, with the one value that is understood.
_PLAIN_VISION = {
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "attentional_pool": False,
    "no_ln_pre": False,
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "pos_embed_type": "learnable",
    "timm_pool": "token",
    "timm_proj": "linear",
    "timm_proj_bias": False,
}
_PLAIN_TEXT = {
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "embed_cls": False,
    "no_causal_mask": False,
    "final_ln_after_pool": False,
    "proj_bias": False,
    "proj_type": "linear",
    "hf_model_name": None,
}
_SWAPS = (
    ("conv1.", "patch_embed.proj."),
    ("positional_embedding", "pos_embed"),
    ("class_embedding", "cls_token"),
    ("transformer.resblocks.", "blocks."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("ln_", "norm"),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)


@dataclass(frozen=True, kw_only=True)
class _OpenClip:
    """A model of open_clip as its configuration and weights."""

    origin: str
    model: dict[str, Any]
    preprocess: dict[str, Any]
    tensors: dict[str, Tensor]
    folder: Path | None = None


def is_foreign(name_or_path: str | Path) -> bool:
    """Whether this names an encoder of another library, or a file or folder that may hold one."""
    path = Path(name_or_path)
    if _NAMED.fullmatch(str(name_or_path)):
        return True
    if path.is_file():
        return path.suffix in weights.SUFFIXES
    return (path / OPEN_CLIP_CONFIG).is_file() or (path / TIMM_CONFIG).is_file()


def load_encoder(name_or_path: str | Path, *, download: bool = False) -> Encoder:
    """The encoder behind such a name, in evaluation mode on the CPU.

    Raises ``UserError`` for names that a library does not know, weights that are not there, and models that are no
    vision transformer with a class token.
    """
    kind, name, tag, file = _parts(name_or_path)
    if kind == "timm":
        return _timm_by_name(name, file, download)
    if kind == "open_clip":
        return _open_clip_encoder(_open_clip_by_name(name, tag, file, download))
    path = Path(name_or_path)
    if path.is_file():
        return convert.read_encoder(path)
    if (path / OPEN_CLIP_CONFIG).is_file():
        return _open_clip_encoder(_open_clip_folder(path))
    return _timm_folder(path)


def load_image_text(name_or_path: str | Path, *, download: bool = False) -> ImageText:
    """Encoder and text tower behind such a name; errors as ``load_encoder``, and where there is no text tower."""
    kind, name, tag, file = _parts(name_or_path)
    if kind == "open_clip":
        return _open_clip_model(_open_clip_by_name(name, tag, file, download))
    path = Path(name_or_path)
    if path.is_file():
        return convert.read_image_text(path)
    if (path / OPEN_CLIP_CONFIG).is_file():
        return _open_clip_model(_open_clip_folder(path))
    raise NoTextTowerError(f"{name_or_path} has no text tower: timm's models read images only")


def _parts(name_or_path: str | Path) -> tuple[str | None, str, str | None, Path | None]:
    """Library, model, tag and file of a name; the library is None where it is a path."""
    match = _NAMED.fullmatch(str(name_or_path))
    if match is None:
        return None, str(name_or_path), None, None
    kind, name, tag, file = match.groups()
    if kind == "timm" and tag:
        raise UserError(f"{name_or_path}: a timm model and its weights are written NAME.TAG, not NAME/TAG")
    if file and not Path(file).is_file():
        raise UserError(f"{name_or_path}: there is no file {file}")
    return kind, name, tag, Path(file) if file else None


# -- timm -------------------------------------------------------------------------------------------


def _timm_by_name(name: str, file: Path | None, download: bool) -> Encoder:
    settings: dict[str, Any] = {"architecture": name.split(".")[0]}
    if not timm.is_model(settings["architecture"]):
        raise UserError(f"timm has no model {name!r}; `timm.list_models()` lists them")
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"timm has no weights {name!r} ({error})") from error
    if known is not None:
        settings |= {"image_size": known.input_size[-1], "mean": tuple(known.mean), "std": tuple(known.std)}
    elif file is None:
        raise UserError(f"timm has no weights for {name!r}; give a file: timm:{name}@FILE")
    encoder = empty_encoder(EncoderConfig(**settings))
    if file is None:
        hub_id = known.hf_hub_id if known else None
        if not hub_id:
            raise UserError(f"timm keeps no weights of {name!r} on the hub; give a file: timm:{name}@FILE")
        file = _from_hub(str(hub_id), TIMM_WEIGHTS, f"timm:{name}", download)
    filtered = checkpoint_filter_fn(weights.read_tensors(file), encoder.backbone)
    _fill(encoder, filtered, file)
    return encoder


def _timm_folder(folder: Path) -> Encoder:
    config = read_json(folder / TIMM_CONFIG)
    if "architecture" not in config:
        raise UserError(f"{folder / TIMM_CONFIG} is no timm model: it names no architecture")
    given = config.get("model_args") or {}
    shown = config.get("pretrained_cfg") or {}
    if (pool := config.get("global_pool", "token")) != "token":
        raise UserError(f"{folder}: features pooled by {pool!r} are not read, only those of the class token")
    fields = _sizes(given)
    fields.setdefault("image_size", (shown.get("input_size") or [3, 224, 224])[-1])
    fields |= {name: tuple(shown[name]) for name in ("mean", "std") if name in shown}
    encoder = empty_encoder(EncoderConfig(architecture=config["architecture"], **fields))
    file = _weights_in(folder, TIMM_WEIGHTS, "pytorch_model.bin")
    _fill(encoder, weights.read_tensors(file), file)
    return encoder


def _weights_in(folder: Path, *names: str) -> Path:
    """The first of these files that is there; ``UserError`` where none is."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} holds no weights ({' or '.join(names)})")
    return found


def _sizes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of timm's vision transformers as fields of ``EncoderConfig``; of a pair of sides the first."""
    return {
        _TIMM_FIELDS[name]: value[0] if isinstance(value, list | tuple) else value
        for name, value in given.items()
        if name in _TIMM_FIELDS
    }


def _fill(encoder: Encoder, tensors: Mapping[str, Tensor], origin: Path) -> None:
    backbone = {name: value for name, value in tensors.items() if not name.startswith("head.")}
    weights.put(encoder.backbone, backbone, origin)
    encoder.metadata = {"from": origin.name}
    encoder.eval()


# -- open_clip --------------------------------------------------------------------------------------


def _open_clip_by_name(name: str, tag: str | None, file: Path | None, download: bool) -> _OpenClip:
    import open_clip

    model = open_clip.get_model_config(name)
    if model is None:
        raise UserError(f"open_clip has no model {name!r}; `open_clip.list_models()` lists them")
    preprocess: dict[str, Any] = {}
    if file is None:
        known = open_clip.pretrained.list_pretrained_tags_by_model(name)
        if tag not in known:
            raise UserError(
                f"open_clip:{name} needs weights: open_clip:{name}@FILE, or open_clip:{name}/TAG with TAG one of "
                f"{', '.join(known) or 'none'}"
            )
        preprocess = dict(open_clip.get_pretrained_cfg(name, tag))
        hub_id = str(preprocess.get("hf_hub", "")).strip("/")
        if not hub_id:
            raise UserError(f"open_clip keeps no weights {name}/{tag} on the hub; download them, then @FILE")
        model["quick_gelu"] = preprocess.get("quick_gelu", model.get("quick_gelu", False))
        file = _from_hub(hub_id, OPEN_CLIP_WEIGHTS, f"open_clip:{name}/{tag}", download)
    return _OpenClip(
        origin=f"open_clip:{name} ({file.name})",
        model=model,
        preprocess=preprocess,
        tensors=weights.read_tensors(file),
    )


def _open_clip_folder(folder: Path) -> _OpenClip:
    config = read_json(folder / OPEN_CLIP_CONFIG)
    files = [folder / OPEN_CLIP_WEIGHTS, folder / "open_clip_pytorch_model.bin"]
    file = next((path for path in files if path.is_file()), None)
    if file is None or not isinstance(config.get("model_cfg"), dict):
        raise UserError(
            f"{folder} is no open_clip folder: it needs model_cfg in its configuration, and {files[0].name}"
        )
    return _OpenClip(
        origin=str(folder),
        model=config["model_cfg"],
        preprocess=config.get("preprocess_cfg", {}),
        tensors=weights.read_tensors(file),
        folder=folder,
    )


def _open_clip_encoder(source: _OpenClip) -> Encoder:
    config = _open_clip_vision(source)
    visual = {
        name.removeprefix("visual."): value
        for name, value in source.tensors.items()
        if name.startswith("visual.")
    }
    if "timm_model_name" in source.model["vision_cfg"]:
        backbone = {name.removeprefix("trunk."): v for name, v in visual.items() if name.startswith("trunk.")}
    else:
        backbone = {_timm_name(name): value for name, value in visual.items() if name != "proj"}
        backbone["cls_token"] = backbone["cls_token"].reshape(1, 1, -1)
        backbone["pos_embed"] = backbone["pos_embed"][None]
    encoder = empty_encoder(config)
    weights.put(encoder.backbone, backbone, source.origin)
    encoder.metadata = {"from": source.origin}
    return encoder.eval()


def _open_clip_vision(source: _OpenClip) -> EncoderConfig:
    vision = source.model["vision_cfg"]
    if "timm_model_name" in vision:
        vision = {"timm_pool": "avg"} | vision  # which open_clip means where nothing is said
    _refuse_other(vision, _PLAIN_VISION, f"{source.origin}: the image tower")
    colours: dict[str, Any] = {
        "mean": tuple(source.preprocess.get("mean") or convert.CLIP_MEAN),
        "std": tuple(source.preprocess.get("std") or convert.CLIP_STD),
    }
    size = source.preprocess.get("size") or vision.get("image_size", 224)
    size = size[0] if isinstance(size, list | tuple) else size
    name = vision.get("timm_model_name")
    if name and name.startswith("local-dir:") and source.folder:
        tower = read_json(source.folder / name.removeprefix("local-dir:") / TIMM_CONFIG)
        fields = _sizes(tower.get("model_args", {})) | {"image_size": size}
        return EncoderConfig(architecture=tower["architecture"], **fields, **colours)
    if name:
        return EncoderConfig(architecture=name, image_size=size, **colours)
    if not isinstance(vision.get("layers"), int):
        raise UserError(f"{source.origin}: its image tower is no vision transformer")
    quick = source.model.get("quick_gelu", False)
    return EncoderConfig(
        architecture=f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224",
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        depth=vision["layers"],
        num_heads=vision["width"] // vision.get("head_width", 64),
        **colours,
    )


def _open_clip_model(source: _OpenClip) -> ImageText:
    encoder = _open_clip_encoder(source)
    text = source.model["text_cfg"]
    _refuse_other(text, _PLAIN_TEXT, f"{source.origin}: the text tower")
    vocabulary = _open_clip_vocabulary(source, text)
    config = TextConfig(
        width=text["width"],
        depth=text["layers"],
        num_heads=text["heads"],
        num_tokens=text["context_length"],
        vocabulary=vocabulary.num_entries if isinstance(vocabulary, LearnedVocabulary) else None,
        joint_width=source.model["embed_dim"],
        activation=None if source.model.get("quick_gelu") else "gelu",
    )
    model = empty_image_text(encoder, config, vocabulary)
    tensors = {name.removeprefix("text."): value for name, value in source.tensors.items()}
    named = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    named |= {
        f"text.transformer.{name}": value
        for name, value in tensors.items()
        if re.match(r"(token_embedding|positional_embedding|transformer\.|ln_final)", name)
    }
    projection = tensors["visual.proj"].T if "visual.proj" in tensors else tensors["visual.head.proj.weight"]
    named["image_projection.weight"] = projection.contiguous()
    named["text_projection.weight"] = tensors["text_projection"].T.contiguous()
    named["logit_scale"] = tensors["logit_scale"].reshape(())
    weights.put(model, named, source.origin)
    return model.eval()


def _open_clip_vocabulary(source: _OpenClip, text: Mapping[str, Any]) -> Vocabulary:
    if not text.get("hf_tokenizer_name"):
        return ClipVocabulary()
    path = None if source.folder is None else source.folder / "tokenizer.json"
    if path is None or not path.is_file():
        raise UserError(
            f"{source.origin} reads texts with {text['hf_tokenizer_name']!r}, which is not supported"
        )
    try:
        return LearnedVocabulary(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises plain Exception for a file that it cannot read
        raise UserError(f"{path} is no vocabulary that this program learned ({error})") from error


def _refuse_other(tower: Mapping[str, Any], plain: Mapping[str, Any], what: str) -> None:
    other = [f"{name}={tower[name]!r}" for name, value in plain.items() if tower.get(name, value) != value]
    if other:
        raise UserError(f"{what} is not one that this program builds ({', '.join(other)})")


def _timm_name(name: str) -> str:
    for old, new in _SWAPS:
        name = name.replace(old, new)
    return name


def _from_hub(hub_id: str, file: str, asked: str, download: bool) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, file, local_files_only=not download))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        remedy = (
            "check the connection" if download else "add --download to fetch it, or give a file with @FILE"
        )
        raise UserError(f"the weights of {asked} are not in the hub's cache; {remedy}") from error
