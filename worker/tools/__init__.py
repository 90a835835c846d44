"""Tools of the deployment that a model may call while it answers.

contract   What a tool is: its definition, how it runs, its result or its wait
registry   The tools that there are, and which of them an answer is offered

A tool knows neither the model nor the log of the answer: `steps/call_tools` runs it, bounds it, and
stores its result.
"""
