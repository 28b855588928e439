"""What a round does. Pure state machines; the map follows as the room fills."""
