"""How to talk to an upstream that serves models.

contract   what every adapter offers, in Pollux' own words
registry   which adapter speaks which dialect, and which models this worker can serve
lines      the connections to an upstream, each to one call at a time
bounds     what no upstream may exceed: event, body
openai     chat completions, as OpenAI and everybody compatible speaks it

A new dialect is one file and one line of the registry. httpx is imported only here.
"""
