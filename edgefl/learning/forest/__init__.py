"""The topology `forest`: rounds along the application's tree, one root at a time (after Totoro).

application.py  ForestApplication: which event belongs to which part
worker.py       a member's part of a round: take the model, train, add the children's sums, pass on
local.py        this device's own part: whether it trains, when its delta is added
models.py       the round's model on its way to this device
invitations.py  children hear of the round
round.py        what a device holds for the round that is open
inflow.py       children's updates, chunk by chunk into the sum
outflow.py      the sum, chunk by chunk to the parent
feedback.py     what the encoding leaves out, kept for the next round
replicas.py     holding the newest model for the root
gaps.py         records of rounds that the root or a runner-up was not there for
coordinator.py  the root's part: start rounds, next model, replicate, take over, hand over
starting.py     what a round is told when it begins
gathering.py    when a round may start
zones.py        rounds inside of zones between two of the whole fleet
direct.py       zones' sums straight to the root, where none shall spoil another's
selection.py    which devices train in it, and how many must deliver
pacing.py       how much time it gets
durations.py    how long devices take, as a histogram that adds up
records.py      what is written down of it
replication.py  the newest model on its way to a second device
recovery.py     where a new root goes on from
standings.py    how far a new root's children are, as they have told
best.py         the best model so far, and when to stop for want of a better one
kept.py         what training leaves on a device for its own next round
next_model.py   the step of the strategy, and its memory
need.py         how many devices the model needs, among several that share them
partner.py      the application as one of those
objections.py   a member that is further than its root says so
epoch.py        which root's word counts
"""
