"""What a result was made with: this project's commit, and the versions of what it stands on."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("llama-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def provenance() -> dict[str, Any]:
    """Returns {"commit": ..., "versions": {package: version}}, as it is written beside results."""
    return {"commit": commit(), "versions": versions()}


def commit() -> str:
    """Returns the git commit of this source tree, with "+changes" if it is not clean.

    "unknown" where the package is not in a git checkout of its own.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "unknown"
    head, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return "unknown" if head is None else head + ("+changes" if status else "")


def versions() -> dict[str, str]:
    """Returns the version of Python and of each package that decides results, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
