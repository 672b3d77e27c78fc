"""The one exception that a command line turns into a one-line message.

Anything that the user can put right (a wrong flag, a missing folder, an unreadable image, a checkpoint of
another program) is raised as `UserError`; its text says what was expected, what came, and what to do.
Programming errors stay what they are and keep their traceback.
"""


class UserError(Exception):
    """An error in what the user gave: printed as one line on standard error, exit code 2."""
