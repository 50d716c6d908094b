"""What is wrong with bytes that are no frame: an error of its own for each rule that they break."""

from __future__ import annotations

from client_replies.messages.invalid import Invalid


class FrameInvalid(Invalid):
    """A frame breaks one of its rules. `found` and `expected` say how, in words."""


class FrameMagicWrong(FrameInvalid):
    """Not a frame at all: something else speaks at the other end."""


class FrameVersionUnknown(FrameInvalid):
    """Another version of the wire."""


class FrameHeaderChecksumWrong(FrameInvalid):
    """The header is not what was sealed."""


class FrameBodyChecksumWrong(FrameInvalid):
    """The body is not what was sealed."""


class FrameRequestChecksumWrong(FrameInvalid):
    """A request whose checksum is not that of its cluster, client, session, number, operation and body."""


class FrameReservedNotZero(FrameInvalid):
    """A reserved byte or flag is set."""


class FrameCommandUnknown(FrameInvalid):
    """No such command."""


class FrameCommandUnexpected(FrameInvalid):
    """A command that goes the other way."""


class FrameTooSmall(FrameInvalid):
    """Smaller than such a frame can be."""


class FrameTooLarge(FrameInvalid):
    """Larger than this end takes."""


class FrameTruncated(FrameInvalid):
    """The stream ended within a frame, or a single frame is not as long as it says."""


class FrameClientZero(FrameInvalid):
    """No client."""


class FrameOperationZero(FrameInvalid):
    """No operation."""


class FrameRegistrationWrong(FrameInvalid):
    """Request 0, session 0 and the operation that registers go together, and not with a body."""


class FrameReleaseZero(FrameInvalid):
    """No client release."""


class FrameFieldNotZero(FrameInvalid):
    """A field is set that this command does not have."""


class FrameFieldOutOfRange(FrameInvalid):
    """A value does not fit its field."""


class FrameReasonUnknown(FrameInvalid):
    """No such reason."""


class FrameTextWrong(FrameInvalid):
    """The text of a refusal is not UTF-8."""


class FrameReplyWrong(FrameInvalid):
    """A reply inside a frame that is not whole, or not the one that the frame announces."""
