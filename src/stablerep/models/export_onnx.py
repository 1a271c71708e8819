"""ONNX files: pictures in [0, 1] to features, normalisation included, and tokens to vectors.

Shapes: N images or texts, D features, E width of the joint space, S pixels, T tokens.
"""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablerep.errors import UserError
from stablerep.models import tokenizers_out
from stablerep.models.encoder import Encoder
from stablerep.models.joint import ImageText

IMAGES, TEXTS = "images.onnx", "texts.onnx"
_OPSET = 18


class _Images(nn.Module):
    def __init__(self, encoder: Encoder, joint: ImageText | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = None if joint is None else joint.image_projection

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder(images)
        if self.projection is None:
            return (features,)
        return features, F.normalize(self.projection(features[:, None])[:, 0], dim=-1)


class _Texts(nn.Module):
    def __init__(self, joint: ImageText) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, tokens: Tensor) -> Tensor:
        return self.joint.project_texts(self.joint.text(tokens))


def write_onnx(encoder: Encoder, joint: ImageText | None, folder: Path) -> str:
    """``images.onnx``, and ``texts.onnx`` with its tokenizer where there is a text tower.

    The batch size is free, the side of the pictures is the encoder's. Raises ``UserError`` where ``onnx`` or
    ``onnxscript`` is not installed.
    """
    _require()
    size = encoder.config.image_size
    outputs = ["features"] if joint is None else ["features", "vectors"]
    images = _Images(encoder, joint).eval()
    _write(images, torch.rand(2, 3, size, size), folder / IMAGES, {"images": outputs})
    usage = (
        f"```python\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("FOLDER/{IMAGES}")\n'
        f"# images: float32 (N, 3, {size}, {size}) in [0, 1], red green blue; normalised inside\n"
        f'{", ".join(outputs)}{"," if joint is None else ""} = session.run(None, {{"images": images}})\n```'
    )
    if joint is None:
        return usage
    tokens = joint.text.tokenize(["a red apple", "two"])
    _write(_Texts(joint).eval(), tokens, folder / TEXTS, {"tokens": ["vectors"]})
    tokenizers_out.write_tokenizer(joint.text, folder)
    return (
        f"{usage}\n\n`{TEXTS}` maps int64 `tokens` (N, {joint.text.config.num_tokens}), padded, to unit `vectors` "
        f"(N, {joint.text.config.joint_width}); `tokenizer.json` makes the tokens."
    )


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"export to onnx needs {error.name}: pip install '.[onnx]' in the clone of stablerep"
        ) from error


def _write(model: nn.Module, example: Tensor, path: Path, names: dict[str, list[str]]) -> None:
    ((input_name, outputs),) = names.items()
    options: dict[str, Any] = {
        "input_names": [input_name],
        "output_names": outputs,
        "dynamic_shapes": ({0: torch.export.Dim("N", min=1)},),
        "opset_version": _OPSET,
        "external_data": False,
        "dynamo": True,
        "verbose": False,
    }
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter talks of its progress
        torch.onnx.export(model, (example,), str(path), **options)
