"""Python orders sets by a seed of its own, which no run of ours may depend on."""

from __future__ import annotations

import os
import subprocess
import sys


def printed_with_two_hash_seeds(code: str) -> tuple[str, str]:
    """What a program prints in two processes with different seeds."""
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1")
    )
    return first, second
