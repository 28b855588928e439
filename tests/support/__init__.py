"""Builders for tests: the one place that makes worlds, fleets and messages."""
