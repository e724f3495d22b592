"""The GRAM protocol without IO: messages, framing, contacts and GASS; `gsi` below, IO in `aio`."""
