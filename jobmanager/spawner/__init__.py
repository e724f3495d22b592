"""The privileged helper: forks user agents and job shepherds, and nothing else.

Standard library only and no import of anything outside this package, so that what runs with
privilege can be read in one sitting.  Read in this order: `frames` (what may be asked), `spawner`
(who answers), `policy` (what is refused), `shepherd` and `child` (how a job runs and ends).
"""
