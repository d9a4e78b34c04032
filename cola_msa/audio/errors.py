"""What can be wrong with a file of audio."""

from collections.abc import Sequence

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


def refused(reason: str) -> AudioError:
    """The error for what a look at a container found."""
    is_cut = reason.startswith("truncated")
    return (TruncatedError if is_cut else UnreadableError)(reason)


def check_alike(kinds: Sequence[tuple[int, int]]) -> None:
    """Refuses a file that is joined from parts of different kinds.

    Args:
        kinds: Samples a second and channels of each part.

    Raises:
        UnreadableError: If they are not all the same.
    """
    first_hz, first_channels = kinds[0]
    for number, (rate_hz, channels) in enumerate(kinds, 1):
        if (rate_hz, channels) != kinds[0]:
            raise UnreadableError(
                f"is joined from {len(kinds)} files, of which number {number} has "
                f"{channels} channels at {rate_hz} Hz and the first {first_channels} "
                f"at {first_hz} Hz: split it, or convert it to FLAC"
            )
