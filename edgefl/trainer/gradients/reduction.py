"""Sums, means and extremes along axes."""

from __future__ import annotations

from edgefl.trainer.gradients.rule import Rule

RULES: dict[str, Rule] = {}
