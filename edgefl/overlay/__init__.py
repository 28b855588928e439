"""Who talks to whom: the rings, the rendezvous, the trees. Pure state machines; the map follows as the room fills."""
