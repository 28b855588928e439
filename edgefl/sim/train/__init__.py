"""Learning curves under virtual time: the protocol code that ships, real gradients, devices of different speed.

traces.py    what devices are like: speed, uplink, downlink, delay; made up from a seed, or read from a CSV file
links.py     links that come and go
learner.py   softmax regression and a perceptron in NumPy over one flat vector
world.py     devices under a virtual clock: messages, transfers through uplinks and downlinks, training
sampled.py   a run of the topology `sampled`
overlay_graph.py  neighbours in the tree that the shipped overlay builds
consensus.py runs of the topology `consensus`: P2PL, D-PSGD, gossip
forest.py    a run of the topology `forest`, on the ideal tree of tree.py
server.py    a baseline: federated averaging with a server that costs nothing
pace.py      the forest's paces, with devices that are slow
curve.py     how a run becomes a curve; failures
p2pl.py      P2PL's claims, against central training
run.py       one curve for each topology and strategy, on the same devices, data and seeds
"""
