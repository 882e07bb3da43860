"""The exceptions that end a command early."""


class ConfigError(ValueError):
    """The command cannot be run; the message is one sentence: what was got and what to do."""


class Stopped(Exception):
    """A launcher was told to stop, and its jobs have ended; `code` is the exit code."""

    def __init__(self, code: int):
        self.code = code
