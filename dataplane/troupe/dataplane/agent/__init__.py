"""The agent kernel: what a turn decides, what its model is shown, and the driver of one attempt."""
