"""What `edgefl doctor` looks at, and what it makes of it.

    facts.py    everything that is read from this device and from its daemon, in one place
    verdict.py  one check: ok, warn or fail, a sentence, and the next step unless all is well
    device.py   what is said about the device
    network.py  what is said about its place in the network: clock, ports, token, reachability, silent peers

Checks are pure functions of facts. Only a `fail` means that edgefl cannot do its work on this device.
"""

from edgefl.doctor.device import check_device
from edgefl.doctor.facts import Facts, gather
from edgefl.doctor.network import check_network
from edgefl.doctor.verdict import Check, Verdict

__all__ = ["Check", "Facts", "Verdict", "check_device", "check_network", "gather"]
