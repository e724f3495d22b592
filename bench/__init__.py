"""Measurements of a running gatekeeper, with the reference server beside ours."""
