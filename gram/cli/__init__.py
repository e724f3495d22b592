"""The `gram` command.

Modules here import only the standard library and typer at the top; what a subcommand needs beyond
that is imported when it runs, so that `gram --help` and shell completion stay fast.
"""


def main() -> None:
    """Run the command with the arguments of the process."""
    from gram.cli.app import app

    app()
