"""How to ask the web for models that cannot: one question in, a few results out.

contract  what a search is made of, and what every kind of service translates
searxng   a SearXNG of one's own
brave     Brave Search
tavily    Tavily
line      the HTTP of a search, its bounds and its failures
block     results as a model reads them: quotations, fenced and numbered

A search is one request. What a result says is a stranger's text: it is cut, cleaned and quoted, and
never obeyed.
"""
