"""The Python API: applications of the fleet, and a program that is a device of it, with trees of its own (Totoro's
Table 2).

    app.py      App: create, watch, steer and pull an application of the daemon on this device
    node.py     Node: join the fleet, create trees, timers
    tree.py     Tree: subscribe, broadcast, aggregate, and what the program hears of them
    events.py   callbacks of the program, one after the other, beside the daemon
    device.py   the daemon inside of the program

    async with Node.join(state="state", token="file:token") as node:
        tree = await node.create_tree("temperature")
        tree.on_broadcast(print)
        await tree.subscribe()
        await tree.broadcast(b"hello")

The daemon runs inside of the program, on its event loop, as `edgefl join` runs it: the same identity, door, overlay and
applications. It does not attach to a daemon that runs already, because callbacks would need a process boundary of their
own, and a program that hangs would hold up the device's daemon, or lose what it is told. docs/api.md is the guide.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.api.app import App
    from edgefl.api.node import Node
    from edgefl.api.tree import Tree
    from edgefl.learning.program.broadcasts import Broadcast
    from edgefl.learning.program.root_sum import Sum

__all__ = ["App", "Broadcast", "Node", "Sum", "Tree"]

_HOMES = {
    "App": "edgefl.api.app",
    "Node": "edgefl.api.node",
    "Tree": "edgefl.api.tree",
    "Broadcast": "edgefl.learning.program.broadcasts",
    "Sum": "edgefl.learning.program.root_sum",
}


def __getattr__(name: str) -> Any:
    """What a program asks for: a Node brings the whole daemon with it, an App does not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
