"""Hosts actors, runs turns, serves clients."""
