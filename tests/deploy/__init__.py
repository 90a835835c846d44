"""How Pollux is run: the command line, and the whole system under its supervisor.

Children are stand-ins wherever it does not matter what they are; the real ones meet in test_up.py
and in the story of the demo.
"""
