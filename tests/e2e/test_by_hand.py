"""What a person types, in three terminals: from a new fleet to a trained model that plain onnxruntime runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support.real_fleet import WAIT_S, edgefl, wait_ended, wait_for

pytestmark = pytest.mark.e2e


class Hands:
    """Terminals: each runs commands in the same working directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        home = {"XDG_CONFIG_HOME": str(directory / "config"), "HOME": str(directory), "OPENBLAS_NUM_THREADS": "1"}
        self.environment = {**os.environ, **home}

    def type(self, *arguments: str, expect: int = 0) -> str:
        """Run a command to its end; its standard output."""
        done = edgefl(*arguments, cwd=self.directory, env=self.environment)
        assert done.returncode == expect, f"edgefl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if expect == 0 else done.stderr

    def type_json(self, *arguments: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.type(*arguments, "--json"))
        assert document["edgefl"] == 1
        return document

    def join(self, state: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a daemon in its terminal."""
        with (self.directory / f"{state}.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "edgefl", "join", "--state", state, *arguments],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.daemons[state] = daemon
        return daemon

    def wait_ready(self, state: str) -> None:
        self.type("wait", "ready", "--timeout", str(WAIT_S), "--state", state)

    def log(self, state: str) -> str:
        return (self.directory / f"{state}.log").read_text()


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    hands = Hands(tmp_path)
    yield hands
    for daemon in hands.daemons.values():
        daemon.terminate()
    for daemon in hands.daemons.values():
        assert wait_ended(daemon, 10) == 0, "SIGTERM is a clean stop"


def test_the_walk_of_the_readme(hands: Hands) -> None:
    hands.type("demo", "--nodes", "3", "--files", ".")
    fleet = hands.type_json("fleet", "new", "--out", "fleet")
    assert Path(fleet["key"]).stat().st_mode & 0o777 == 0o600
    hands.join("a", "--first", "--fleet", "fleet", "--listen", "127.0.0.1:0", "--data", "digits=digits-0.npz")
    hands.wait_ready("a")
    token = hands.type("fleet", "invite", "--fleet", "fleet", "--state", "a").strip()
    status = hands.type_json("status", "--state", "a")
    assert status["state"] == "joined"
    assert status["fleet"] == fleet["fleet"]
    described = hands.type_json("token", "inspect", token)
    assert described["fingerprint"] == fleet["fleet"]
    assert token not in json.dumps(described)

    address = status["address"]
    hands.join(
        "b", "--bootstrap", address, "--token", token, "--listen", "127.0.0.1:0", "--data", "digits=digits-1.npz"
    )
    (hands.directory / "token").write_text(token)
    hands.join("c", "--token", "file:token", "--listen", "127.0.0.1:0", "--data", "digits=digits-2.npz")
    hands.wait_ready("b")
    hands.wait_ready("c")

    hands.type("artifacts", "build", "mlp.onnx", "--loss", "cross-entropy", "--optimizer", "momentum", "-o", "art")
    created = hands.type_json(
        "app", "create", "art", "--name", "digits", "--data", "digits", "--rounds", "5", "--local-epochs", "3",
        "--batch", "16", "--min-members", "3", "--state", "a",
    )  # fmt: skip
    board = ["--tensorboard", "board"] if find_spec("tensorboardX") else []
    lines = hands.type("app", "watch", "digits", "--state", "a", "--json", *board).splitlines()
    assert not board or len(list((hands.directory / "board" / "digits").iterdir())) == 1
    events = [json.loads(line) for line in lines]
    assert events[-1]["finished"]
    assert events[-1]["round"] == 5
    assert created["id"] == events[-1]["id"]
    hands.type("wait", "done", "--app", "digits", "--state", "c")
    text = hands.type("status", "--state", "b")
    assert "digits" in text
    assert "finished" in text
    assert "5/5" in hands.type("app", "list", "--state", "c")
    tree = hands.type_json("tree", "digits", "--plot", "t.svg", "--state", "a")
    assert tree["members"] >= 1
    assert len(tree["devices"]) == 3
    assert len(tree["edges"]) == 2
    assert "<svg" in (hands.directory / "t.svg").read_text()
    assert "round   5/5" in hands.type("app", "watch", "digits", "--state", "b")

    rows = hands.type_json("app", "history", "digits", "--plot", "h.png", "--csv", "h.csv", "--state", "a")["history"]
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert (hands.directory / "h.png").read_bytes().startswith(b"\x89PNG")
    header, *lines = (hands.directory / "h.csv").read_text().splitlines()
    assert header.startswith("round,epoch,participants,samples,seconds,bytes,attempts,loss,accuracy,train_loss,epsilon")
    assert len(lines) == 6

    hands.type("app", "pull", created["id"][:6], "-o", "trained.onnx", "--state", "c")
    session = onnxruntime.InferenceSession(str(hands.directory / "trained.onnx"), providers=["CPUExecutionProvider"])
    test = np.load(hands.directory / "digits-test.npz")
    logits = session.run(None, {session.get_inputs()[0].name: test["x"]})[0]
    assert np.mean(logits.argmax(axis=1) == test["y"]) > 0.85
    hands.type(
        "app", "create", "art", "--name", "own heads", "--data", "digits", "--rounds", "20", "--strategy", "scaffold",
        "--personal", "logits.*", "--lr-schedule", "warmup:rounds=2+cosine:floor=0.1", "--patience", "2",
        "--batch", "16", "--min-members", "3", "--state", "a",
    )  # fmt: skip
    for state in ("a", "b"):
        wait_for(lambda state=state: "own heads" in hands.type("app", "list", "--state", state), "it is known")
        hands.type("wait", "done", "--app", "own heads", "--timeout", str(WAIT_S), "--state", state)
    shown = hands.type_json("app", "show", "own heads", "--state", "a")
    assert 0 < shown["best"]["round"] <= shown["round"] <= 20
    wait_for(lambda: hands.type_json("app", "show", "own heads", "--state", "b")["best"], "the best model to come")
    hands.type("app", "pull", "own heads", "--best", "-o", "best.onnx", "--state", "b")
    session = onnxruntime.InferenceSession(str(hands.directory / "best.onnx"), providers=["CPUExecutionProvider"])
    own = np.load(hands.directory / "digits-1.npz")
    logits = session.run(None, {session.get_inputs()[0].name: own["x"]})[0]
    assert np.mean(logits.argmax(axis=1) == own["y"]) > 0.85  # its own digits, with its own head
    assert "--keep-best" in hands.type("app", "pull", "digits", "--best", "-o", "none.onnx", "--state", "a", expect=75)
    key = hands.type_json("lookup", status["node"], "--state", "c")
    assert key["owner"]["node"] == status["node"]
    peers = hands.type_json("peers", "--state", "a")["peers"]
    assert len(peers) == 2
    known = hands.type_json("members", "--state", "a")["members"]
    assert [(row["node"], row["state"]) for row in known[:1]] == [(status["node"], "this device")]
    assert {(row["node"], row["state"]) for row in known[1:]} == {(row["node"], "alive") for row in peers}
    assert "this device" in hands.type("members", "--state", "c")
    measured = hands.type_json("rtt", peers[0]["node"][:8], "--count", "3", "--state", "a")
    assert measured["node"] == peers[0]["node"]
    assert len([sample for sample in measured["samples_ms"] if sample is not None]) + measured["lost"] == 3
    assert 0 < measured["min_ms"] <= measured["median_ms"] <= measured["max_ms"]
    assert "ms least" in hands.type("rtt", status["node"], "--state", "b")
    assert "is this device" in hands.type("rtt", status["node"], "--state", "a", expect=2)
    assert "is no device" in hands.type("rtt", "kitchen", "--state", "a", expect=2)
    assert "is joined now" in hands.type("rtt", "0" * 16, "--state", "a", expect=69)


def test_a_device_without_a_token_waits_for_approval(hands: Hands) -> None:
    hands.type("fleet", "new", "--out", "fleet")
    hands.join("a", "--first", "--fleet", "fleet", "--listen", "127.0.0.1:0")
    hands.wait_ready("a")
    address = hands.type_json("status", "--state", "a")["address"]
    hands.join("b", "--bootstrap", address, "--listen", "127.0.0.1:0", "--site", "attic")
    wait_for(lambda: "waiting for approval" in hands.log("b"), "the request")
    rows = wait_for(lambda: hands.type_json("fleet", "pending", "--state", "a")["pending"], "the request to arrive")
    assert rows[0]["site"] == "attic"
    hands.type("fleet", "approve", rows[0]["node"][:8], "--fleet", "fleet", "--state", "a")
    hands.type("wait", "ready", "--state", "b", "--timeout", str(WAIT_S))
    assert hands.type_json("status", "--state", "b")["state"] == "joined"
    assert hands.type_json("fleet", "pending", "--state", "a")["pending"] == []


def test_a_revoked_device_is_shut_out_and_says_why(hands: Hands) -> None:
    hands.type("fleet", "new", "--out", "fleet")
    hands.join("a", "--first", "--fleet", "fleet", "--listen", "127.0.0.1:0")
    hands.wait_ready("a")
    token = hands.type("fleet", "invite", "--fleet", "fleet", "--state", "a").strip()
    guest = hands.join("b", "--token", token, "--listen", "127.0.0.1:0")
    hands.wait_ready("b")
    node = hands.type_json("status", "--state", "b")["node"]
    hands.type("fleet", "revoke", node, "--fleet", "fleet", "--state", "a")
    assert wait_ended(guest) == 77
    assert "revoked" in hands.log("b")
    del hands.daemons["b"]
    again = hands.join("b", "--listen", "127.0.0.1:0")
    assert wait_ended(again) == 77
    del hands.daemons["b"]
    wait_for(lambda: hands.type_json("status", "--state", "a")["contacts"] == 0, "the fleet to forget it")
