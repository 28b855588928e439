"""What is said about a device's place in the network, and above all: which side blocks."""

from __future__ import annotations

from typing import Any

import pytest

from edgefl.doctor.facts import Facts, Port, TokenFact
from edgefl.doctor.network import check_network
from edgefl.doctor.verdict import Check, Verdict
from tests.doctor.sample import INSTALLED, WELL, daemon, dial_back, facts

FLEET = "0011:2233:4455:6677"


def named(name: str, given: Facts) -> Check:
    (found,) = [check for check in check_network(given) if check.name == name]
    return found


def silent(**changes: Any) -> dict[str, Any]:
    return {
        "node": "00000000000000bb",
        "address": "198.51.100.9:7321",
        "cause": "198.51.100.9 port 7321 does not answer within 5 s",
        "others_reach_it": True,
        **changes,
    }


def test_without_a_daemon_it_says_what_it_can() -> None:
    checks = check_network(WELL)
    assert [check.name for check in checks] == ["clock", "ports", "daemon", "discovery"]
    assert [check.verdict.value for check in checks] == ["ok", "ok", "warn", "ok"]
    assert "was not checked" in checks[2].says
    assert named("daemon", facts(daemon_error="configuration: broken")).verdict is Verdict.WARN


def test_a_member_with_which_all_is_well() -> None:
    checks = check_network(facts(daemon=daemon(dial_backs=(dial_back("reached"),))))
    assert {check.verdict for check in checks} == {Verdict.OK}
    assert named("reachability", facts(daemon=daemon(dial_backs=(dial_back("reached"),)))).says == (
        "peers reach this device at 192.0.2.7:7321, last 12 s ago"
    )


@pytest.mark.parametrize(
    ("chosen", "measured", "says"),
    [
        ("measured", (4, 8 << 30, None), "measured to be normal: cores 4, memory 8192 MB"),
        ("measured", (8, 1 << 30, False), "measured to be normal: cores 8, memory 1024 MB, on battery"),
        ("told", (None, None, True), "told to be normal: cores unknown, memory unknown, on mains"),
    ],
)
def test_the_capacity_class_is_shown_with_what_it_comes_from(
    chosen: str, measured: tuple[int | None, int | None, bool | None], says: str
) -> None:
    cores, memory_bytes, on_mains = measured
    capacity = {
        "class": "normal",
        "chosen": chosen,
        "cores": cores,
        "memory_bytes": memory_bytes,
        "on_mains": on_mains,
    }
    assert named("capacity", facts(daemon=daemon(capacity=capacity))).says == says


@pytest.mark.parametrize(
    ("outcome", "how"),
    [("refused", "is refused"), ("silent", "gets no answer"), ("other", "answered by something else")],
)
def test_a_leaf_is_told_that_its_own_side_blocks_and_how(outcome: str, how: str) -> None:
    found = named("reachability", facts(daemon=daemon("leaf", (dial_back(outcome, seen="203.0.113.4"),))))
    assert found.verdict is Verdict.WARN
    assert "outbound works (5 connections), inbound to 203.0.113.4:7321" in found.says
    assert how in found.says
    assert "this device's firewall or NAT. It takes part as a leaf" in found.says
    assert "open TCP ports 7321, 7322 and 7323" in found.next


def test_a_leaf_on_ipv6_and_one_without_an_answer_at_hand() -> None:
    six = named("reachability", facts(daemon=daemon("leaf", (dial_back("silent", seen="2001:db8::7"),))))
    assert "inbound to [2001:db8::7]:7321" in six.says
    assert "was not tried" in named("reachability", facts(daemon=daemon("leaf"))).says


def test_a_device_without_any_connection_blocks_itself() -> None:
    lonely = daemon("leaf", (dial_back("silent"),), connections=0, silent_peers=[silent()])
    assert named("reachability", facts(daemon=lonely)).verdict is Verdict.FAIL
    assert "this device's side blocks" in named("peer", facts(daemon=lonely)).says


def test_what_is_not_known_yet_is_said_so() -> None:
    assert "no peer has dialled" in named("reachability", facts(daemon=daemon(known=False))).says
    one = named("reachability", facts(daemon=daemon(dial_backs=(dial_back("silent"),), known=False)))
    assert (one.verdict, "still to be asked" in one.says, "wait 12 s" in one.next) == (Verdict.WARN, True, True)
    skipped = named("reachability", facts(daemon=daemon(dial_backs=(dial_back("not_tried"),), known=False)))
    assert skipped.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("others", "whose"),
    [
        (True, "although others reach it: its side"),
        (False, "nobody else reaches it: it is off, or its side blocks"),
        (None, "is not known"),
    ],
)
def test_whose_side_a_silent_peer_is(others: bool | None, whose: str) -> None:
    found = named("peer", facts(daemon=daemon(silent_peers=[silent(others_reach_it=others)])))
    assert found.verdict is Verdict.WARN
    assert "00000000000000bb at 198.51.100.9:7321" in found.says
    assert whose in found.says
    assert found.next


@pytest.mark.parametrize(
    ("given", "verdict", "says"),
    [
        (facts(clock=INSTALLED - 86400), "warn", "before edgefl was installed"),
        (facts(daemon=daemon(clocks_ahead_s=[600.0, 590.0, -2.0])), "warn", "590 s behind that of 3 peers"),
        (facts(daemon=daemon(clocks_ahead_s=[-700.0])), "warn", "700 s ahead of that of 1 peers"),
        (facts(daemon=daemon(clocks_ahead_s=[1.0, 9000.0, -1.0])), "ok", "as that of 3 peers"),
        (WELL, "ok", "no peer to compare with"),
    ],
)
def test_the_clock(given: Facts, verdict: str, says: str) -> None:
    found = named("clock", given)
    assert (found.verdict.value, says in found.says) == (verdict, True), found


def test_ports() -> None:
    taken = (Port("0.0.0.0", 7321, "door", "Address already in use"), *WELL.ports[1:])
    found = named("ports", facts(ports=taken))
    assert (found.verdict, "port 7321 (door): Address already in use" in found.says) == (Verdict.FAIL, True)
    ours = tuple(Port("0.0.0.0", port.port, port.use, "daemon") for port in WELL.ports)
    assert named("ports", facts(ports=ours)).says.startswith("the daemon has 7321 (door)")
    assert named("ports", facts(ports=())).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("given", "verdict", "says"),
    [
        ({"token": TokenFact(error="the token is cut off", hint="copy the whole line again")}, "fail", "cut off"),
        ({"token": TokenFact(error="damaged")}, "fail", "damaged"),
        ({"token": TokenFact(FLEET, "aa", 2, 5)}, "ok", "names 2 doors, for 5 devices; it does not expire"),
        ({"token": TokenFact(FLEET), "daemon": daemon()}, "ok", FLEET),
        ({"token": TokenFact(FLEET), "daemon": daemon(token_revoked=True)}, "fail", "revoked"),
        ({"token": TokenFact("ffff"), "daemon": daemon()}, "warn", "this device is in fleet"),
        ({"token": TokenFact("ffff"), "daemon": daemon(fleet=None)}, "ok", "ffff"),
    ],
)
def test_tokens(given: dict[str, Any], verdict: str, says: str) -> None:
    found = named("token", facts(**given))
    assert (found.verdict.value, says in found.says) == (verdict, True), found
    assert bool(found.next) is (verdict != "ok")


def test_a_daemon_that_has_not_joined_or_has_a_problem() -> None:
    assert "has not joined" in named("daemon", facts(daemon=daemon(joined=False, connections=0))).says
    assert named("daemon", facts(daemon=daemon(problems=["the disk is full"]))).says == "the disk is full"


@pytest.mark.parametrize(
    ("given", "verdict", "says"),
    [
        (facts(mdns="off"), "ok", "mdns = off"),
        (facts(mdns="on", packages={}), "fail", "needs the zeroconf package"),
        (facts(packages={}), "ok", "pip install 'edgefl[mdns]'"),
        (facts(daemon=daemon(mdns=False)), "ok", "no private network"),
        (facts(daemon=daemon()), "ok", "shown and searched"),
    ],
)
def test_the_local_network(given: Facts, verdict: str, says: str) -> None:
    found = named("discovery", given)
    assert (found.verdict.value, says in found.says) == (verdict, True), found


SPENT = {"used_bytes": 9, "limit_bytes": 9, "period": "day", "spent": True}


def test_a_pause_is_what_the_owner_wanted_and_has_its_reason() -> None:
    limits = daemon()["limits"]
    assert named("limits", facts(daemon=daemon())).says == "training is free"
    assert named("limits", facts(daemon=daemon(limits={**limits, "training": "digits"}))).says == "it trains digits"
    paused = {**limits, "paused": {"why": "it is at 80 °C (temperature = 75)", "for_s": 12.0}}
    found = named("limits", facts(daemon=daemon(limits=paused)))
    assert (found.verdict.value, "12 s: it is at 80" in found.says) == ("warn", True)
    assert found.next


def test_a_leaf_because_its_bytes_are_used_up_is_not_told_to_open_ports() -> None:
    limits = {**daemon()["limits"], "transfer": SPENT}
    found = named("reachability", facts(daemon=daemon("leaf", limits=limits)))
    assert (found.verdict.value, "used up" in found.says) == ("ok", True)
