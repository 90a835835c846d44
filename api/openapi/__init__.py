"""The OpenAPI document, made from the route tables and the wire types.

generator  Makes the document
schemas    JSON schemas of the wire types
headers    The headers of requests and responses, described
"""
