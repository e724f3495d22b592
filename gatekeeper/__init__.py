"""The service: front door, mapping, configuration, supervisor, HTTP side."""
