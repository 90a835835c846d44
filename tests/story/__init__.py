"""The tutorial: each test tells, in one sentence, something that a customer may count on.

clients   Programs of customers in Python and JavaScript, each a process of its own
"""
