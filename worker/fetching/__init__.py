"""Fetches URLs that callers name, without reaching private networks.

url_fetcher   UrlFetcher: one GET with address checks, redirects, byte and host budgets
dns_resolver  DnsResolver: hosts file, then DNS, without threads, with a limit for each account
image_cache   Keeps the images of deferred turns for their next attempt
"""
