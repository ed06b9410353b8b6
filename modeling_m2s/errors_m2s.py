"""The base of all errors that a user can mend."""


class UserError(Exception):
    """A request that cannot be carried out; the message names the value or the file, and the fix."""
