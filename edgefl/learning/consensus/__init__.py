"""Topology `consensus`: every device trains, and averages with its neighbours alone (P2PL, D-PSGD, gossip).

graph.py     who exchanges with whom in which round
mixing.py    the weights of an average
device.py    one device: agreement on a start, local steps, consensus steps
"""
