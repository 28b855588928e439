"""Topology `sampled`: every round a few devices train, chosen by a hash; nobody coordinates (MoDeST, Plexus).

registry.py   who takes part: a view that merges in any order, and travels as deltas
order.py      the order of all devices in a round; who aggregates; who gets the model first
sampling.py   finding those who answer: hedged pings, replacement
options.py    what a manifest may choose
average.py    the running weighted mean of the models of one session
record.py     the history, written by aggregators
searches.py   searches under way, by name
pushed.py     small models that come unasked: places, and how long they are waited for
arrivals.py   how models come: pushed, or fetched
trainer.py    a task: train, find an aggregator
aggregator.py a session: collect, average, draw the next sample
watchdog.py   starts again when everybody who worked on a round is gone
device.py     one device: what these parts share, and which message belongs to which
application.py  SampledApplication: members and news along the application's tree
"""
