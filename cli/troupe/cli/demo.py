"""`make demo`: one fleet, one question, one answer, one ledger; then everything stops again."""

import sys


def main() -> int:
    """Run the demo; its exit status. Ctrl-C ends it with 130, also while Python still imports."""
    try:
        import typer

        from troupe.cli.edge import reported

        try:
            with reported(debug="--debug" in sys.argv):
                from troupe.cli.demonstration import demonstrate

                return demonstrate()
        except typer.Exit as error:
            return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
