"""Normalisation over the batch, a layer or groups of channels."""

from __future__ import annotations

from edgefl.trainer.gradients.rule import Rule

RULES: dict[str, Rule] = {}
