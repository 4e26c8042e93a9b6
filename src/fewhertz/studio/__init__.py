"""To see and hear what a method makes of a clip."""
