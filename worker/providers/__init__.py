"""Clients of the upstreams that serve models.

contract            What every provider offers; the Protocols of a dialect and of its reader
registry            Which provider speaks which dialect, and which models this worker can serve
http_provider       HttpProvider: one streamed request to one upstream, of any dialect
aiohttp_transport   The connections to an upstream, over aiohttp; classifies their failures
sse                 Parses server-sent events, within bounds
openai              Requests of chat completions: OpenAI and all compatible servers
openai_answers      Reads the chunks of chat completions
anthropic           Requests of Anthropic's messages API
anthropic_caching   Marks what Anthropic's API is to keep in its cache
anthropic_answers   Reads the events of Anthropic's messages API
anthropic_usage     Reads the usage in those events
gemini              Requests of Google's generateContent
gemini_answers      Reads the chunks of generateContent
conversation        Adapts a conversation to upstreams that refuse blank messages
kept_reasoning      Keeps the reasoning that an upstream wants back unchanged
citations           Collects the pages that an answer cites, each once
media               Decodes base64, and joins the pieces of a sound
tool_calls          Assembles tool calls from the pieces in which they arrive
finish_reasons      One table of finish reasons for all dialects
tolerant_json       Decodes JSON that has not quite the expected form
failures            Translates every failure of a call into a ProviderError
refusals            Classifies a refusal by its status, codes and sentences
refusal_text        Extracts codes and sentences from the many shapes of error bodies
quoted_words        What an upstream says of a request, as far as its caller may read it
refusal_codes       The error codes of upstreams and their meaning, with sources
refusal_words       The error sentences of upstreams and their meaning, with sources
retry_after         How long an upstream asks to wait: header, field, sentence, reset
rate_limit_headers  Reads the rate-limit headers of all upstreams

A new dialect is two files and one entry in the registry. httpx is imported only here, in
`worker/web_search/` and in `worker/fetching/url_fetcher.py`.
"""
