"""Mutated streams, read by an adapter and by a plain reading of the standards: both must agree.

`python -m tests.worker.fuzz --inputs 1000000 --seed 7` for long; pytest takes a short walk. With
`--types`, every field of a good answer as a value of every other type instead.

mutations   how an answer becomes an input: what is changed in it, the reads it comes in, cuts
reading     a plain reading of event streams and of JSON, and what it comes to
openai      answers of chat completions, and their plain reading
anthropic   the same of Anthropic's messages
gemini      the same of Gemini's generateContent
types       every field of a good answer as a value of another type, and which answers that loses
comparison  where an adapter and the plain reading of its dialect differ

An input agrees when the adapter raised nothing but a ProviderError, heard the same parts in the
same order, and took for an end only what the bytes say is one: an answer that was cut is never a
whole one.
"""
