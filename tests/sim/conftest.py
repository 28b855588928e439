"""Property tests have no deadline: the machine may be busy, and nothing here is about wall time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
