"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake outside the program: the message names the thing, the value, the place and the remedy.

    The command line prints the message alone and exits with code 2; anything else is a bug and keeps its traceback.
    """


class NonFiniteError(UserError):
    """A training whose loss or gradient is no longer a number: other settings of the optimiser may mend it."""
