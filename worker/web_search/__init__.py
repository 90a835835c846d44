"""Clients of web search services, for models that cannot search: one query in, a few results out.

contract        What a search consists of, and what each kind of service must translate
client          SearchClient: the HTTP of a search, its bounds and failures
searxng         SearXNG, self-hosted
brave           Brave Search
tavily          Tavily
results_prompt  Results as a model reads them: quoted, fenced and numbered

A search is one request. The text of a result is a stranger's: it is cut, cleaned and quoted, and
the model is told not to follow instructions in it.
"""
