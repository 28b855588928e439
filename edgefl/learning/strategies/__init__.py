"""Strategies: how the root turns the devices' mean delta into the next model, chosen by name in the manifest.

spec.py      names and options, as they stand in a manifest and behind `--strategy`; without numpy
rates.py     the devices' learning rate, from round to round
local.py     what a strategy adds to local training, and what the devices send in place of their delta
server.py    one small pure class per strategy, over flat float32 vectors
"""
