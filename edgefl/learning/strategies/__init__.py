"""Strategies: how the root turns the devices' mean delta into the next model, chosen by name in the manifest.

spec.py      names and options, as they stand in a manifest and behind `--strategy`; without numpy
server.py    one small pure class per strategy, over flat float32 vectors
"""
