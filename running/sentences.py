"""From an exception to the one sentence that the command line shows."""

import sys
import traceback

MAX_LENGTH = 600


def sentence(error: BaseException) -> str:
    """`error` in one line; an exception of no expected kind is named and leads to `debug=true`."""
    text = " ".join(str(error).split())
    if len(text) > MAX_LENGTH:
        text = text[:MAX_LENGTH] + " …"
    if _is_written_for_people(error):
        return text
    return f"{type(error).__name__}: {text} (`debug=true` shows the traceback)"


def show(error: BaseException, *, debug: bool, prefix: str = "") -> None:
    """Show `error` on stderr: its sentence, and with `debug` its traceback before that."""
    if debug:
        traceback.print_exception(error)
    print(f"{prefix}{sentence(error)}", file=sys.stderr)


def _is_written_for_people(error: BaseException) -> bool:
    # Of the built-in exceptions only these carry the project's own sentences; an exception class
    # that somebody has defined (a dataset's, an extension's) speaks for itself.
    built_in = type(error).__module__ == "builtins"
    return isinstance(error, ValueError | NotImplementedError) or not built_in
