"""The troupe command."""
