"""Visual representations learned from pictures that a text-to-image model painted."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("stablerep")

if TYPE_CHECKING:
    from stablerep.api import (
        Embedder,
        convert,
        embed,
        evaluate,
        export,
        generate,
        load_encoder,
        train,
        write_captions,
    )

__all__ = [
    "Embedder",
    "__version__",
    "convert",
    "embed",
    "evaluate",
    "export",
    "generate",
    "load_encoder",
    "train",
    "write_captions",
]


def __getattr__(name: str) -> Any:
    """Load the interface on first use, so that `import stablerep` itself costs nothing."""
    if name in __all__:
        from stablerep import api

        return getattr(api, name)
    raise AttributeError(f"module 'stablerep' has no attribute {name!r}; it offers {', '.join(__all__)}")
