"""One device's daemon: the composition root, and what ties the pure core to the real world.

    daemon.py      Daemon: builds the parts, hands them to each other, routes events
    membership.py  how a device comes by its certificate
    arrival.py     the way into the fleet, and back into it
    addresses.py   which of its addresses the device tells others
    reachability.py can others reach it? what peers found when they dialled it back
    whereabouts.py keeps the device's contact true: address and role
    discovery.py   finding a fleet on the local network, and being found   neighbourhood.py  what is found, checked
    mdns.py        multicast DNS
    effects.py     timers, messages, blobs, training and disk for the core
    training.py    the training thread           disk.py     the disk thread
    control.py     the control socket's server   verbs.py    what it can be asked
    examination.py what it tells edgefl doctor
    measuring.py   edgefl rtt and members
    create.py      making an application         report.py   its parts as documents
    status.py      what a daemon says of itself
    supervisor.py  what systemd hears            log.py      what people read

The only room that knows all others.
"""
