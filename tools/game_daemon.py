"""A daemon as it ships, which besides goes below the parent that a file names, whatever its own rule says.

game_daemon.py FILE join …: everything after FILE is for `edgefl`. FILE may come and change at any time: JSON with `app`
and `parents`, ids of devices as edgefl prints them, and `contacts`, each id's packed contact in hexadecimal: a device
has not everybody in its rings. Static trees are measured this way (game_fleet.py); a tree of its own choice has no
FILE.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from edgefl.cli import main
from edgefl.daemon import daemon
from edgefl.wire import node_name
from edgefl.wire.contact import unpack_contact

LOOK_S = 0.5


class ArrangedDaemon(daemon.Daemon):
    """Looks at the file every LOOK_S."""

    order: Path

    async def _housekeeping(self) -> None:
        looking = asyncio.ensure_future(self._look())
        try:
            await super()._housekeeping()
        finally:
            looking.cancel()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # it is being written
                self.guard(self._arrange, json.loads(self.order.read_text()))

    def _arrange(self, order: dict[str, object]) -> None:
        parents, contacts = order["parents"], order["contacts"]
        assert isinstance(parents, dict)
        assert isinstance(contacts, dict)
        app, wanted = int(str(order["app"]), 16), parents.get(node_name(self.keys.node_id))
        tree = self.overlay._forest.trees.get(app)
        if wanted is None or tree is None:
            return
        parent = unpack_contact(bytes.fromhex(contacts[wanted]))
        if self.overlay.parent_of(app) != parent.node_id:
            tree.switch(parent, self.effects.now)


if __name__ == "__main__":
    ArrangedDaemon.order = Path(sys.argv.pop(1))
    daemon.Daemon = ArrangedDaemon  # type: ignore[misc]
    main()
