"""Habits of the code, maps of the packages, and what the documentation says of both, as tests.

source   The files of the project, each read and parsed once
tables   Renders the documentation's tables from the code; `python -m tests.tidy.tables` writes them
"""
