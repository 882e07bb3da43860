"""The exception for a command that cannot be run."""


class ConfigError(ValueError):
    """The command cannot be run; the message is one sentence: what was got and what to do."""
