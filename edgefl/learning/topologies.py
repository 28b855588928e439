"""Which kind of application a manifest asks for."""

from __future__ import annotations

from edgefl.learning.application import Application
from edgefl.learning.forest.application import ForestApplication
from edgefl.wire.application import Manifest, Topology


def kind_of(manifest: Manifest) -> type[Application]:
    """The class that runs this manifest's topology."""
    return {Topology.FOREST: ForestApplication}[manifest.topology]
