"""The user agent: a process with the account's uid that does all work on the account's files.

It reads and writes only what the account may, so the names in a job description need no checks of
their own; what belongs to the job manager (`~/.gram/jobs`, the GASS cache) is reached through
directory descriptors and no symbolic link in it is followed.  Read in this order: `frames` (what
may be asked), `main` (who answers), `workspace`, `opening`, `staging`, `output`; `client` is the
service's end.
"""
