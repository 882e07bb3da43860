"""How a command ends that is not run to its end."""


class ConfigError(ValueError):
    """What was asked for cannot be run: one sentence that says what was got and what to do."""


class Stopped(Exception):
    """A launcher was told to stop, and its jobs have ended; `code` is the exit code."""

    def __init__(self, code: int):
        self.code = code
