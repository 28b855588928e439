"""Topology `sampled`: every round a few devices train, chosen by a hash; nobody coordinates (MoDeST, Plexus).

registry.py   who takes part: a view that merges in any order, and travels as deltas
order.py      the order of all devices in a round; who aggregates
sampling.py   finding those who answer: hedged pings, replacement
options.py    what a manifest may choose
average.py    the running weighted mean of the models of one session
device.py     one device: trainer, aggregator, watchdog
"""
