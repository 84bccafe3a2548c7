"""Files that people write in YAML: read them, and tell every mistake with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shared.domain.errors import Usage


def read_yaml(path: Path) -> Any:
    """What the file holds. Raises Usage for a file that cannot be read or is not YAML."""
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise Usage(f"{path} is not YAML: {error}") from None


def problems(error: ValidationError, name: str) -> str:
    """One line per mistake, with its place in the file."""
    lines = [f"{name} has mistakes:"]
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(str(step) for step in problem["loc"]) or "file"
        lines.append(f"  {place}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)
