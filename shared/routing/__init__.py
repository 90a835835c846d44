"""Which model answers, and what that may cost: pure decisions over the catalogue.

needs            What a request needs of a model, and what upstreams do not carry: one table
choose           Applies the checks to every candidate and takes the first that passes
search_estimate  Who searches the web for a turn, and what that adds to it
price            Tokens and rates to microcredits, and the estimates that a hold needs

The worker's step `choose` uses it, and the API for holds. Nothing here reads a clock or a socket.
"""
