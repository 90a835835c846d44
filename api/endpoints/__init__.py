"""One row of a route table, its way through the guards, and the parameters that handlers read.

endpoint    A row: method, path, scope, limit, handler; how a request passes through it
parameters  Parameters of paths, queries and headers
"""
