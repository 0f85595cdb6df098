"""Every error that r3mem raises on purpose. Each message says what to do next."""


class R3MemError(Exception):
    """Base class of all errors of this package."""


class InputError(R3MemError, ValueError):
    """A text, a file or a tensor that cannot be processed as given."""


class ConfigError(R3MemError, ValueError):
    """A combination of settings that cannot work."""


class FingerprintError(R3MemError):
    """A memory or checkpoint that was made by another backbone, stack or format version."""


class RecallError(R3MemError):
    """The recalled tokens are not the ones that were retained; no text is returned."""
