"""JSON files: written, and read where somebody else may have written them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 1024 * 1024


def read_json(path: Path, what: str) -> Any:
    """The content of `path`, which is to be `what`. ValueError naming both: not to be read, too large, or no JSON."""
    path = path.expanduser()
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{what} {str(path)!r} is no file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{what} {str(path)!r} is larger than {MAX_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"there is no {what} {str(path)!r}: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {str(path)!r} is not JSON: {error}") from error


def write_json(path: str | Path, content: Any) -> None:
    """Write `content`, of plain values, to `path`."""
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
