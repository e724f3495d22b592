"""`python -m gram` is the `gram` command."""

from gram.cli import main

main()
