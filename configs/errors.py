"""Errors that are meant for the person at the terminal."""


class UserError(ValueError):
    """Input that can't be used: says where, what it is, what it must be and what to do. Exit code 2."""


class RunError(RuntimeError):
    """Something failed while running, after the input was accepted. Exit code 1."""


class ConfigError(UserError):
    """One or more settings are wrong; the message has a line for each, with its path."""
