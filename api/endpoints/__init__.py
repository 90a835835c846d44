"""Dialects: their rows, the way through the guards, and the parameters that handlers read.

endpoint    A row: method, path, scope, limit, handler; how a request passes through it
dialect     Its rows below a prefix, and all that differs from other dialects
path_table  Finds what answers a path
parameters  Parameters of paths, queries and headers
"""
