"""Delivers the events of accounts to their receivers.

sender     One attempt: signs the payload, calls the receiver, and says what its answer means
deliverer  Takes deliveries that are due, and sends many at once
signature  Signs as the Standard Webhooks specification says
"""
