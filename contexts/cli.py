"""Command lines built with typer: plain help, and exit statuses instead of tracebacks for known errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer
from typer.main import get_command

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells report it: 128 + SIGINT."""


def new_app(help_text: str) -> typer.Typer:
    """Create an app, or a group of commands, without shell completion, coloured help and coloured tracebacks."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        no_args_is_help=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run(
    app: typer.Typer,
    program: str,
    *,
    errors: tuple[type[Exception], ...],
    describe: Callable[[Exception], str] = str,
    arguments: Sequence[str] | None = None,
    on_interrupt: str = "stopped",
) -> int:
    """Run one command, and return the exit status: 0, 1 after a known error, 2 after a usage error, 130 after Ctrl-C.

    program: the command line without its arguments, such as `python -m contexts`; usage messages begin with it.
    errors: known errors; their message is printed to stderr. Other errors propagate.
    describe: returns the message of a known error.
    arguments: None for those of the process.
    on_interrupt: the line that is printed to stderr after Ctrl-C.
    """
    # Not app(): it handles Ctrl-C and closed pipes itself, with different exit statuses.
    command = get_command(app)
    try:
        with command.make_context(program, list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        if sys.stdout:  # None if the process was started without one
            sys.stdout.flush()
    except typer.Exit as error:  # --help
        return error.exit_code
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]  # defined by every usage error
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe; exiting flushes stdout once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except errors as error:
        print(describe(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(on_interrupt, file=sys.stderr)
        return INTERRUPTED
    return 0
