"""Tests that need no server: pure functions, settings, and classes on a clock that stands.

A file has the name of the module that it tests: `test_ring` tests `api/follow/ring.py`.
"""
