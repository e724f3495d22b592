"""Local resource managers: what runs the jobs."""
