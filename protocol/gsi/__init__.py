"""Grid Security Infrastructure: names, proxies, trust, credentials and delegation.

Everything here is pure: no sockets and no event loop.  Import the modules by name.
"""
