"""Job managers, one per job, and what they need: store, contacts, LRMs, agents, spawner."""
