"""Turns an exception into the one sentence that the command line shows."""

import sys
import traceback

MAX_LENGTH = 600


def sentence(error: BaseException) -> str:
    """`error` in one line; an unexpected kind of error is named, with a hint at `debug=true`."""
    text = " ".join(str(error).split())
    if len(text) > MAX_LENGTH:
        text = text[:MAX_LENGTH] + " …"
    if _is_written_for_people(error):
        return text
    return f"{type(error).__name__}: {text} (`debug=true` shows the traceback)"


def show(error: BaseException, *, debug: bool, prefix: str = "") -> None:
    """Print the sentence of `error` on stderr; with `debug`, print its traceback first."""
    if debug:
        traceback.print_exception(error)
    print(f"{prefix}{sentence(error)}", file=sys.stderr)


def _is_written_for_people(error: BaseException) -> bool:
    # Of the built-in exceptions, the project raises only these with a sentence for the user. A
    # class that is not built in (a dataset's, an extension's) is assumed to have such a sentence.
    built_in = type(error).__module__ == "builtins"
    return isinstance(error, ValueError | NotImplementedError) or not built_in
