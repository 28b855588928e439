"""Topology `consensus`: every device trains, and averages with its neighbours alone (P2PL, D-PSGD, gossip).

options.py         what an application may choose
graph.py           who exchanges with whom in which round, where the graph is given
device.py          one device: local steps, consensus steps
beginning.py       how it begins: with the others, or as a copy of one that has begun
start.py           agreement on the start with the largest norm
heard.py           neighbours' models that are held, within bounds
shown.py           own models that neighbours may fetch
patience.py        for whom a step waits
mixing.py          the weights of an average
averaging.py       the average itself, slice by slice
momentum.py        a round goes on where the last one went
push_sum.py        masses instead of weights: the exact mean, whatever is lost
claims.py          shares of mass that are claimed of the neighbours
surroundings.py    what a device asks of whoever runs it

application.py     a device in a fleet: neighbours, reports and an end from the application's tree
tree_neighbours.py who exchanges with whom in a tree
reports.py         metrics on their way to the root
ending.py          the root's part: the word to begin, the last rounds, one merge of all models
own_models.py      a device's effects: it speaks for its own model
"""
