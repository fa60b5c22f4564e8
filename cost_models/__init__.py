"""What a block of a layer costs on a device; imports neither torch nor the planner."""
