"""The map of this room follows as it fills."""
