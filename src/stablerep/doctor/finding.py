"""One thing that the doctor found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["broken", "wasteful", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found at one place, what to do, and, where that is safe to do here, how."""

    path: str
    severity: Severity
    what: str
    remedy: str
    repair: Callable[[], str] | None = None
    """Mends it and says what was done."""

    def to_json(self) -> dict[str, Any]:
        """Everything but the repair itself."""
        return {
            "path": self.path,
            "severity": self.severity,
            "what": self.what,
            "remedy": self.remedy,
            "repairable": self.repair is not None,
        }
