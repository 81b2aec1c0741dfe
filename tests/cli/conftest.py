import pytest

from byheart.cli import main


@pytest.fixture
def run(capsys):
    """Run the command line as a person does: its exit status, what it printed, and what on stderr."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
