"""Mutated streams, read by each adapter and by a plain reading of the standards: both must agree.

`python -m tests.worker.fuzz --inputs 1000000 --seed 7` runs for long; pytest runs a short sample.
With `--types`, every field of a valid answer is replaced by a value of every other type instead.

__main__    Runs the fuzz and prints what differs
mutations   Makes an input from an answer: changes, chunk sizes, cuts
reading     A plain reading of event streams and of JSON, and its result
openai      Answers of chat completions, and their plain reading
anthropic   Answers of Anthropic's messages, and their plain reading
gemini      Answers of Gemini's generateContent, and their plain reading
types       Every field of a valid answer as a value of another type, and which answers that loses
comparison  Compares an adapter with the plain reading of its dialect

An input agrees if the adapter raised nothing but a ProviderError, yielded the same parts in the
same order, and saw an end only where the bytes have one: a cut answer is never complete.
"""
