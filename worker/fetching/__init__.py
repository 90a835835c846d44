"""Fetching of URLs that callers or models name, and what stays in memory of it."""
