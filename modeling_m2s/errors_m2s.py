"""Errors that a user can mend."""

from huggingface_hub.errors import StrictDataclassError


class UserError(Exception):
    """A request that cannot be carried out; the message names the value or the file, and the fix."""


# Any other error is a bug.
USER_ERRORS = (UserError, OSError, ValueError, StrictDataclassError)
