"""The routing game: parents chosen so that nobody gains by another choice, from costs in seconds.

    model.py        what a parent costs its child; the exact potential; when a move is worth it
    rules.py        the rules of choice and their parameters, selectable per fleet
    residuals.py    what advertisements hide, learnt from what was measured
    experience.py   what a round has taught: the own link, and how true the parent's word was
    ledger.py       a device's promised bytes per round over all applications; admission, one request at a time
    bandits.py      baselines that learn from their own costs alone: KL-UCB, EXP3
    site.py         what devices of one site carry together over the uplink that they share
    player.py       this device in one tree: asks for prices, asks to come, moves when the round is over
    game.py         all players of a device, and what it answers as a parent
    equilibrium.py  epsilon: the gain still to be had, summed up on its way to the root

Players are (application, device): with aggregation in the tree, a device sends one stream of bytes to one parent,
whatever hangs below it. The same arithmetic runs on floats in the daemon and on arrays in `edgefl sim game`
(overlay study, section 2).
"""
