"""Tests of the clients of search services, on real sockets.

search_apis  How each kind of service returns results, and a server that plays it
"""
