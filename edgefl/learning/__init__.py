"""What a round does: applications, rounds, aggregation. Pure state machines, like the overlay below them.

    node.py         Learning: all applications of one device; which event belongs to which
    application.py  Application: life cycle on one device
    ledger.py       how far it has come, as far as this device knows
    border.py       what must stay inside a zone, and what does
    worker.py       a member's part of a round: take the model, train, add the children's sums, pass on
    round.py        what a device holds for the round that is open
    inflow.py       children's updates, chunk by chunk into the sum
    outflow.py      the sum, chunk by chunk to the parent
    encoding/       how chunks are written: from float32 to the largest hundredth
    feedback.py     what that leaves out, kept for the next round
    replicas.py     holding the newest model for the root
    coordinator.py  the root's part: start rounds, next model, replicate, take over, hand over
    standings.py    how far its children are, as they have told
    records.py      what it writes down of each round
    objections.py   a member that is further than its root says so
    aggregate.py    the running weighted sum of one open round, every chunk with its own weight
    strategies/     how the mean delta becomes the next model
    epoch.py        which root's word counts
    history.py      one record per round
    metrics.py      weighted sums on their way up
    manifest.py     what a manifest must fulfil
    sampled/        samples chosen by a hash, rotating aggregators (MoDeST, Plexus)
    consensus/      averaging with neighbours alone (P2PL, D-PSGD, gossip)
    effects.py      what this room asks of the world

Knows no sockets, no clocks, and not how a gradient is computed.
"""
