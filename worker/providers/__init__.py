"""How to talk to an upstream that serves models.

contract   what every provider offers, in Pollux' own words, and what makes a dialect
registry   which upstream speaks which dialect, and which models this worker can serve
upstream   one call: the request out, the parts of its answer back
lines      the connections to an upstream, each to one call at a time
sse        events out of bytes, within bounds
failures   what an upstream's failures are in our words
refusals   why an upstream refuses, from its status, its codes and its sentences
refusal_codes  the codes and types that upstreams refuse by, with their sources
refusal_words  the sentences that they refuse by, with their sources
refusal_text   what an error says, taken out of the many shapes of errors
waits      how long an upstream asks to wait, in all the ways of saying so
rate_limit_headers  the headers in which upstreams tell their limits
calls      the calls of tools in an answer, gathered from their pieces
citations  the pages that an answer is said to rest on, each once
media      bytes in base64, and sounds gathered from their pieces
tolerant   JSON that does not quite have the form that it should, read as far as it goes
endings    why an answer ended, in the words of all upstreams
openai     chat completions, as OpenAI and everybody compatible speaks it
anthropic  messages, as Anthropic speaks it
gemini     generateContent, as Google's Gemini API speaks it
openai_answers     what the chunks of chat completions mean
anthropic_answers  what the events of Anthropic's messages mean
gemini_answers     what the chunks of generateContent mean
conversation       a conversation as stricter upstreams take it

A new dialect is two files and one line of the registry. httpx is imported only here, in `search/`
and in `worker/fetching/url_fetcher.py`.
"""
