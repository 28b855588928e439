"""What a round does: applications, rounds, aggregation. Pure state machines, like the overlay below them.

    node.py         Learning: all applications of one device; which event belongs to which
    application.py  Application: life cycle on one device, whatever the topology
    ledger.py       how far it has come, as far as this device knows
    border.py       what must stay inside a zone, and what does
    forest/         rounds along the tree: one root, sums on their way up (Totoro)
    encoding/       how chunks are written: from float32 to the largest hundredth
    aggregate.py    the running weighted sum of one open round, every chunk with its own weight
    groups.py       the same at a root that cuts off the ends of its children's means
    strategies/     how the mean delta becomes the next model
    history.py      one record per round
    metrics.py      weighted sums on their way up
    manifest.py     what a manifest must fulfil; with topologies.py and compatible.py, what goes with what
    options.py      NAME:key=value,… as people write it
    policies.py     which policies of the devices' owners an application asks for
    fit.py          whether a model fits into this device
    pace.py         how rounds follow each other, as a manifest says it
    together.py     applications that share one fleet's training: whose turn it is on this device (FedAST)
    turns.py        whose turn it is between two steps, whatever the applications
    sampled/        samples chosen by a hash, rotating aggregators (MoDeST, Plexus)
    consensus/      averaging with neighbours alone (P2PL, D-PSGD, gossip)
    program/        broadcasts and small sums of a program's own tree (edgefl/api)
    effects.py      what this room asks of the world

Knows no sockets, no clocks, and not how a gradient is computed.
"""
