"""Topology `consensus`: every device trains, and averages with its neighbours alone (P2PL, D-PSGD, gossip).

options.py       what an application may choose
graph.py         who exchanges with whom in which round, where the graph is given
device.py        one device: local steps, consensus steps
beginning.py     how it begins: with the others, or as a copy of one that has begun
start.py         agreement on the start with the largest norm
heard.py         neighbours' models that are held, within bounds
mixing.py        the weights of an average
push_sum.py      masses instead of weights: the exact mean, whatever is lost
surroundings.py  what a device asks of whoever runs it
"""
