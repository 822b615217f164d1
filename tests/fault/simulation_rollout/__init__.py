"""Rollouts under seeded faults: the real rules of revisions and rollouts, with everything around them simulated."""
