"""Updates of an image in the field: two systems on one card, and only a healthy one stays.

    bundle.py       one signed file: the new system's root, kernel and initramfs
    slots.py        the two places (a, b), which one runs, and what a kernel is told about it
    bootloader.py   which one starts next, on trial or for good: systemd-boot's counting, or a Raspberry Pi's config.txt
    install.py      a bundle into the place that does not run: checked before it is read, and again as written
    sources.py      where bundles come from: a folder of the device, or a web server that the card's settings name
    trial.py        what a trial has come to; it outlives boots
    gate.py         healthy or not, from what is seen of the service (pure)

The running system is never written. The new one is started once, on trial: a kernel that dies, a service that does not
find its fleet, or anything else that keeps it from being called healthy leads back to the system before, with no help.
"""
