"""Rows of `tools/bench learning`.

report.py     what was asked for, and figures beside their bars
small.py      small fleets on the shipped digits
plexus.py     sampled training beside D-PSGD and gossip, and beside a free server
silence.py    devices, aggregators and roots that vanish without a word
waiting.py    paces of the forest with slow devices
neighbours.py P2PL beside central training
averaging.py  the forest beside plain federated averaging
"""
