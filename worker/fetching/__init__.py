"""Fetches URLs that callers name, without reaching private networks.

url_fetcher        UrlFetcher: one GET or POST; checks addresses, bounds bytes and hosts
dns_resolver       DnsResolver: hosts file, then DNS, without threads, with a limit for each account
response_protocol  BoundedResponseProtocol: reads few interim answers of one connection
image_cache        Keeps the images of deferred turns for their next attempt
"""
