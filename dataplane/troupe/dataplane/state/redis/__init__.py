"""Session state in Redis: each script is one Lua script, and what the scripts of one moment are goes in one pipeline.

The client library is imported in this package only.
"""
