"""Revisions in Redis: each write is one Lua script, which compares and stores.

The client library is imported in this package only.
"""
