"""What the doctor says about the network: clock, ports, token, reachability, and which side blocks."""

from __future__ import annotations

from statistics import median
from time import gmtime, strftime
from typing import Any

from edgefl.doctor.facts import Facts
from edgefl.doctor.verdict import Check, fail, ok, warn

CLOCK_OFF_S = 60.0
"""Wall time only appears in logs; a minute is where reading two devices' logs side by side becomes confusing."""

HOWS = {
    "refused": "is refused (a firewall rejects it, or a router forwards nothing)",
    "silent": "gets no answer (a firewall drops it, or a router in between)",
    "other": "is answered by something else (another device behind the same address?)",
}


def check_network(facts: Facts) -> list[Check]:
    """Everything beyond the device itself. Without a daemon, what can be said without one."""
    checks = [check_clock(facts), check_ports(facts), check_daemon(facts)]
    if facts.token is not None:
        checks.append(check_token(facts))
    if facts.daemon is not None:
        checks += [check_capacity(facts.daemon), check_limits(facts.daemon), check_reachability(facts.daemon)]
        checks += check_silent_peers(facts.daemon)
    checks.append(check_mdns(facts))
    return checks


def check_clock(facts: Facts) -> Check:
    if facts.clock < facts.newest_file - CLOCK_OFF_S:
        return warn(
            "clock",
            f"the clock shows {utc(facts.clock)}, which is before edgefl was installed ({utc(facts.newest_file)}): "
            "only logs are wrong",
            "set the time (timedatectl set-ntp true)",
        )
    ahead = facts.daemon["clocks_ahead_s"] if facts.daemon is not None else []
    if not ahead:
        return ok("clock", f"the clock shows {utc(facts.clock)}; no peer to compare with")
    off_s = median(ahead)
    if abs(off_s) > CLOCK_OFF_S:
        return warn(
            "clock",
            f"the clock shows {utc(facts.clock)}, {abs(off_s):.0f} s {'behind' if off_s > 0 else 'ahead of'} that of "
            f"{len(ahead)} peers: only logs are wrong",
            "set the time (timedatectl set-ntp true)",
        )
    return ok("clock", f"the clock shows {utc(facts.clock)}, as that of {len(ahead)} peers")


def check_ports(facts: Facts) -> Check:
    if not facts.ports:
        return ok("ports", "any free ports will be used")
    numbers = ", ".join(f"{port.port} ({port.use})" for port in facts.ports)
    if all(port.held_by == "daemon" for port in facts.ports):
        return ok("ports", f"the daemon has {numbers}")
    taken = [port for port in facts.ports if port.held_by]
    if taken:
        said = ", ".join(f"{port.host} port {port.port} ({port.use}): {port.held_by}" for port in taken)
        return fail("ports", said, "stop what uses it, or choose another --listen HOST:PORT")
    return ok("ports", f"{numbers} are free")


def check_daemon(facts: Facts) -> Check:
    daemon = facts.daemon
    if daemon is None:
        if facts.daemon_error:
            return warn("daemon", f"the daemon does not tell: {facts.daemon_error}", "restart it; see its log")
        return warn("daemon", "no daemon runs: how others reach this device was not checked", "edgefl join")
    if not daemon["joined"]:
        return warn(
            "daemon",
            f"the daemon runs, and has not joined a fleet: {daemon['connections']} connections",
            "see its log; is one of the fleet's doors reachable from here?",
        )
    if daemon["problems"]:
        return warn("daemon", daemon["problems"][0], "see its log")
    return ok(
        "daemon",
        f"in fleet {daemon['fleet']}, {daemon['connections']} connections, {daemon['contacts']} contacts",
    )


def check_token(facts: Facts) -> Check:
    token = facts.token
    if token is None or token.error:
        cause, hint = ("no token", "") if token is None else (token.error, token.hint)
        return fail("token", cause, hint or "ask the fleet's owner for another one (edgefl fleet invite)")
    said = f"the token is for fleet {token.fleet} and names {token.doors} doors"
    if facts.daemon is not None:
        if facts.daemon["token_revoked"]:
            return fail("token", f"{said}: its owner has revoked it", "ask for a new one (edgefl fleet invite)")
        if facts.daemon["fleet"] not in (None, token.fleet):
            return warn(
                "token", f"{said}; this device is in fleet {facts.daemon['fleet']}", "use a token of the fleet you mean"
            )
    return ok("token", f"{said}{f', for {token.uses} devices' if token.uses else ''}; it does not expire")


def check_capacity(daemon: dict[str, Any]) -> Check:
    """How much of others' work this device carries. On battery it steps back by itself: nothing to mend."""
    found = daemon["capacity"]
    cores, memory_bytes = found["cores"], found["memory_bytes"]
    memory = "unknown" if memory_bytes is None else f"{memory_bytes >> 20} MB"
    power = {True: ", on mains", False: ", on battery", None: ""}[found["on_mains"]]
    said = f"{found['chosen']} to be {found['class']}: cores {cores or 'unknown'}, memory {memory}{power}"
    return ok("capacity", said)


def check_limits(daemon: dict[str, Any]) -> Check:
    """Whether the device trains when it is asked to: a pause is what its owner wanted, nothing to mend."""
    limits = daemon["limits"]
    if limits["paused"] is not None:
        paused = limits["paused"]
        return warn(
            "limits",
            f"training pauses since {paused['for_s']:.0f} s: {paused['why']}",
            "nothing, if that is what [limits] in the configuration is meant to do",
        )
    return ok("limits", "training is free" if limits["training"] is None else f"it trains {limits['training']}")


def check_reachability(daemon: dict[str, Any]) -> Check:
    """Inbound: what peers found when they dialled this device back."""
    found = daemon["reachability"]
    host, port = found["announced"]["host"], found["announced"]["port"]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    tried = [answer for answer in found["dial_backs"] if answer["outcome"] != "not_tried"]
    links, broadcast = daemon["ports"][1:]
    if found["role"] == "leaf" and (daemon["limits"]["transfer"] or {}).get("spent"):
        return ok("reachability", "its transfer is used up, so it takes part as a leaf until it may transfer again")
    if found["role"] == "leaf":
        last = next((answer for answer in reversed(tried) if answer["outcome"] in HOWS), None)
        if daemon["connections"] == 0:
            return fail(
                "reachability",
                "no connection in either direction: this device's side blocks, or it has no network",
                "check cable, address and firewall",
            )
        where, how = place, "was not tried"
        if last is not None:
            seen = last["seen"]
            where = f"[{seen}]:{last['port']}" if ":" in seen else f"{seen}:{last['port']}"
            how = HOWS[last["outcome"]]
        return warn(
            "reachability",
            f"outbound works ({daemon['connections']} connections), inbound to {where} {how}: this device's firewall "
            "or NAT. It takes part as a leaf, through its own connections",
            f"open TCP ports {port}, {links} and {broadcast} to this device to change this (forward them in the "
            "router, and give --advertise HOST:PORT)",
        )
    if found["known"]:
        reached = [answer for answer in tried if answer["outcome"] == "reached"]
        when = f", last {reached[-1]['ago_s']:.0f} s ago" if reached else ""
        return ok("reachability", f"peers reach this device at {place}{when}")
    if tried:
        return warn(
            "reachability",
            f"{len(tried)} peer could not dial this device back at {place}; others are still to be asked",
            f"wait {found['next_check_s']:.0f} s and look again",
        )
    return ok("reachability", f"no peer has dialled this device back at {place} yet")


def check_silent_peers(daemon: dict[str, Any]) -> list[Check]:
    """Outbound: peers whose door does not open to this device, and whose side that is."""
    checks = []
    for peer in daemon["silent_peers"]:
        who = f"{peer['node']} at {peer['address']}"
        if daemon["connections"] == 0:
            says, then = "nor does any other: this device's side blocks", "check this device's network and firewall"
        elif peer["others_reach_it"]:
            says = "although others reach it: its side lets only some in, or the way between you is blocked"
            then = "look at that device's firewall (edgefl doctor there), and at the network between"
        elif peer["others_reach_it"] is False:
            says, then = "and nobody else reaches it: it is off, or its side blocks", "look at that device"
        else:
            says, then = "and whether others reach it is not known", "look at that device"
        checks.append(warn("peer", f"{who} does not open its door ({peer['cause']}), {says}", then))
    return checks


def check_mdns(facts: Facts) -> Check:
    package = facts.packages.get("zeroconf")
    if facts.mdns == "off":
        return ok("discovery", "the local network is not searched (mdns = off)")
    if package is None and facts.mdns == "on":
        return fail("discovery", "mdns = on needs the zeroconf package", "pip install 'edgefl[mdns]'")
    if package is None:
        return ok("discovery", "the local network is not searched: pip install 'edgefl[mdns]' would do that")
    if facts.daemon is not None:
        shown = "shown and searched" if facts.daemon["mdns"] else "not searched: this is no private network"
        return ok("discovery", f"the local network is {shown} (mdns = {facts.mdns})")
    return ok("discovery", f"multicast DNS can be used (mdns = {facts.mdns})")


def utc(seconds: float) -> str:
    """A time for people."""
    return strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(seconds))
