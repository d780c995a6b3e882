"""The one exception that means "the user can fix this"."""


class UserError(ValueError):
    """A mistake in the input: path, file, key, label, option.

    The message is one line that says what is wrong and what to do. The command line prints it
    without a traceback and exits with code 2. Everything else that is raised is our own bug.
    """


class LeakError(UserError):
    """A split that leaks, where `--strict` was asked for: exit code 4."""


class BusyError(UserError):
    """Another process has what this one wants to write."""
