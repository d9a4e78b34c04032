"""What can be wrong with a file of audio."""

from cola_msa.system.errors import UserError


class AudioError(UserError):
    """A file that cannot be used; its message is a reason in one line."""


class MissingError(AudioError):
    """The file does not exist or is not a file."""


class EmptyError(AudioError):
    """The file has no bytes, or no samples."""


class UnreadableError(AudioError):
    """The file is no audio that can be decoded, or is damaged."""


class TruncatedError(AudioError):
    """The file ends before its audio does."""


class TooShortError(AudioError):
    """The audio is shorter than one window of the encoder."""


class NonFiniteError(AudioError):
    """The audio has samples that are infinite or not a number."""


class StemError(AudioError):
    """A stem that does not fit its mixture, or none where stems are wanted."""
