"""The OpenAPI document, made from the route tables and the types that are sent.

generator         Makes the document
schemas           JSON schemas of the wire types
headers           The headers that requests and responses may have, described
"""
