"""The Python API: a program that is a device of the fleet, with trees of its own (Totoro's Table 2).

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

from edgefl.api.node import Node
from edgefl.api.tree import Tree
from edgefl.learning.program.broadcasts import Broadcast
from edgefl.learning.program.root_sum import Sum

__all__ = ["Broadcast", "Node", "Sum", "Tree"]
