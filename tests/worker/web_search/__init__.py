"""The search of the web, on real sockets: what each kind of service is asked and made of."""
