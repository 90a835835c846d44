"""Habits of the code, maps of the packages, and what the documentation says of both, as tests.

record_fields  Which fields of a generation's record the Lua functions write
source         The files of the project, each read and parsed once
tables         Renders the documentation's tables; `python -m tests.tidy.tables` writes them
"""
