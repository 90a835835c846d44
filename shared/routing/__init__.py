"""Which model answers, and what that may cost: pure decisions over the catalogue.

choose   gates, then the catalogue's order
search   who searches the web for a turn, and what that adds to it
price    tokens and rates to microcredits, and the estimates a hold stands on

The worker's step `choose` runs it; the front runs it for holds. Nothing here reads a clock or a
socket.
"""
