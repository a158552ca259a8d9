"""Errors a user can act on: each says what was expected, what came and what to do."""


class LtbenchError(Exception):
    """An error with one message for the user and an exit code for the shell."""

    exit_code = 1


class RunFailedError(LtbenchError):
    """A run that had started could not go on."""


class DivergedError(RunFailedError):
    """A loss, weight or gradient that is not finite: the settings' doing, and so each time."""


class ClaimLostError(RunFailedError):
    """Another process took this one for dead, and the folder is its own now."""


class ReplannedError(RunFailedError):
    """A cell that has become another run since it was planned."""


class StorageError(LtbenchError):
    """Storage that does not take what is written: of the machine, not of the run that met it."""


class StorageFullError(RunFailedError, StorageError):
    """No space is left, or the storage failed."""


class UsageError(LtbenchError):
    """A name, a setting or a combination of settings that cannot be used."""

    exit_code = 2


class StorageClosedError(UsageError, StorageError):
    """A folder that is read-only or another user's."""


class DoesNotFitError(UsageError):
    """A method that cannot be run on these data, or not with these settings of the run."""


class DataMissingError(LtbenchError):
    """Data, weights or a package that is not here; the message names what gets it."""

    exit_code = 3


class VerificationError(LtbenchError):
    """Stored data that does not say what it should: a wrong digest, a leak, a damaged file."""

    exit_code = 4


class GridFailedError(LtbenchError):
    """Some cells of a grid failed; what the others did is kept."""

    exit_code = 5


class InterruptedRunError(LtbenchError):
    """A run stopped by a signal, saved, and ready to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
