"""What an upstream can do wrong, row by row, and what then becomes of a message.

faults     the rows: a script of bytes each
scene      a deployment with two models, of which the first misbehaves
__main__   prints the table; a test holds the same rows to what is expected of them
"""
