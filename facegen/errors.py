"""The errors that facegen raises beyond ValueError and FileNotFoundError (which mean: mend your input)."""


class FacegenError(Exception):
    """Something that facegen made, or holds, is not as it should be."""


class DamagedArtifactError(FacegenError):
    """A file does not match its digest, its format or its manifest."""


class BusyError(FacegenError):
    """Another live process holds the lock."""


class NonFiniteError(FacegenError):
    """A loss or a gradient was NaN or infinite; no weight has been touched by it."""


class StoppedError(FacegenError):
    """A signal asked the stage to stop; its state is saved and the same command goes on from there."""
