"""A device whose door nobody can reach takes part all the same, through the connections that it opens itself."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.real_fleet import Task, edgefl, wait_for

pytestmark = pytest.mark.e2e


def blocked_door() -> tuple[str, ...]:
    """Options of a device that listens at one address and is announced at another, where nobody listens: as behind a
    router or a firewall that lets nothing in."""
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    return "--listen", f"127.0.0.2:{port}", "--advertise", f"127.0.0.1:{port}"


def test_a_device_that_cannot_be_dialled_trains_with_the_others(tmp_path: Path) -> None:
    task = Task(tmp_path, 4)
    with task.fleet as fleet:
        fleet.nodes = 3
        fleet.start()
        fleet.nodes = 4
        task.create()
        wait_for(lambda: len(task.apps()) == 3, "the application is known")  # then a newcomer hears of it at once
        fleet.launch(3, "--token", f"file:{tmp_path / 'token'}", *blocked_door())
        fleet.wait_ready(3)
        leaf = fleet.status(3)
        assert leaf["role"] == "leaf"
        assert leaf["reachability"]["dial_backs"][-1]["outcome"] == "refused"
        wait_for(lambda: task.apps().get(3, {}).get("round", 0) >= 1, "the leaf is in the rounds")
        assert task.app(3)["parent"] is not None
        task.wait_finished()
        apps = task.apps()
        assert {app["round"] for app in apps.values()} == {6}
        assert all(row["participants"] == 4 for row in fleet.client(0).call("app.history", app=task.id)[1:])
        assert (apps[3]["children"], apps[3]["is_root"]) == ([], False)
        assert all(app["root"] != leaf["node"] for app in apps.values())
        assert task.accuracy(3) > 0.8, "it has the final model"

        status = fleet.statuses()
        assert status[3]["role"] == "leaf"
        assert "knocked" not in status[3]["traffic"], "nobody got in at its door"
        for number in range(3):
            known = {peer["node"] for peer in fleet.client(number).call("peers")}
            assert leaf["node"] not in known, "it is in nobody's routing table"
            assert status[number]["traffic"].get("links_lost", 0) == 0
        owner = fleet.client(0).call("lookup", key=leaf["node"])["owner"]["node"]
        assert owner != leaf["node"], "it tracks nothing, not even what is nearest to it"

        text = edgefl("status", "--state", str(fleet.state(3))).stdout
        assert "leaf" in text

        # The doctor says which side blocks, and that nothing is wrong elsewhere.
        found = edgefl("doctor", "--state", str(fleet.state(3)), "--token", f"file:{tmp_path / 'token'}", "--json")
        assert found.returncode == 0, found.stdout
        checks = {check["name"]: check for check in json.loads(found.stdout)["checks"]}
        assert checks["reachability"]["verdict"] == "warn"
        assert f"inbound to {leaf['address']} is refused" in checks["reachability"]["says"]
        assert "this device's firewall or NAT" in checks["reachability"]["says"]
        assert "open TCP ports" in checks["reachability"]["next"]
        assert leaf["fleet"] in checks["token"]["says"]
        assert "as that of" in checks["clock"]["says"]
        well = edgefl("doctor", "--state", str(fleet.state(1)))
        assert well.returncode == 0, well.stdout
        assert "peers reach this device at" in well.stdout
