"""How to talk to an upstream that serves models.

contract   what every provider offers, in Pollux' own words, and what makes a dialect
registry   which upstream speaks which dialect, and which models this worker can serve
upstream   one call: the request out, the parts of its answer back
lines      the connections to an upstream, each to one call at a time
sse        events out of bytes, within bounds
failures   what an upstream's failures are in our words
calls      the calls of tools in an answer, gathered from their pieces
citations  the pages that an answer is said to rest on, each once
media      bytes in base64, and sounds gathered from their pieces
openai     chat completions, as OpenAI and everybody compatible speaks it
anthropic  messages, as Anthropic speaks it
gemini     generateContent, as Google's Gemini API speaks it

A new dialect is one file and one line of the registry. httpx is imported only here, in `search/`
and in `worker/fetch.py`.
"""
