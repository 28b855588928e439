"""What an image does before its daemon starts, at every boot: take the settings from the card, and say what came of it.

    settings.py   edgefl.toml on the card: its slot, its keys, errors with line numbers
    card.py       files on the FAT partition: overwritten in place, synced
    steps.py      the program: token and settings into the device, the token off the card, the outcome onto it
    taken.py      how the next boot knows that nothing on the card has changed
    status.py     edgefl-status.txt, which a person can read on any PC
    host.py       name, machine id and ssh of the device

It may be cut off at any instant. Then the token is on the card or in the device (or in both, until the next boot), and
never in neither: steps.py has the order of writes, its test cuts the power after each of them.
"""
