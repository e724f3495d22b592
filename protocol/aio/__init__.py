"""The one IO shell: asyncio streams that speak GSI, in both roles.

`server.serve` and `gsi.Connector` make connections, `gsi.Acceptor` secures accepted ones, a
`stream.GsiStream` carries messages, `delegation` hands credentials over, `doubles` stand in for
streams in tests.  Import the modules by name.
"""
