"""Everything Graft refuses, as one tree. Each message is a single line that a user can act on.

GraftError                 exit code 2: the user's input or surroundings are at fault
├── ConfigError            pipelines.yaml or --set says something Graft does not accept
├── SourceUnavailable      a path, package, hub id, mirror entry or registered model is not there
│   └── Unreachable        a registry or server did not answer; trying again may help
├── DataError              a file was found, but cannot be read as rows
│   └── DataRejected       rows were read, but too many (or too few classes) fail the gate
├── UnsafeModel            pickled weights, or a model that wants its own code executed
├── StoreError             a stage output cannot be written: disk full, folder not writable
├── TrackingError          MLflow cannot be reached, or refuses
├── LedgerError            a promotion that came too late, or a history that was changed
└── WorkerError            what another worker or process was to do was not done
"""


class GraftError(Exception):
    """The base of all refusals. `str(error)` is one line: what, where, and what is accepted."""


class ConfigError(GraftError):
    """A configuration value is unknown, missing, of the wrong type, or out of range."""


class SourceUnavailable(GraftError):
    """Nothing was found where a `path:` points."""


class Unreachable(SourceUnavailable):
    """A registry or server did not answer; trying again may help."""


class DataError(GraftError):
    """A data file is empty, truncated, wrongly encoded, or lacks a column."""


class DataRejected(DataError):
    """The validation gate is shut: nothing is trained on these rows."""


class UnsafeModel(GraftError):
    """A backbone that would run code when it is loaded."""


class StoreError(GraftError):
    """A stage output could not be written."""


class TrackingError(GraftError):
    """The tracking server or model registry did not do what was asked."""


class WorkerError(GraftError):
    """A run on another work pool failed, was cancelled, or crashed too often; or one of several
    processes that learn together was lost."""


class LedgerError(GraftError):
    """A decision that another one came before, or a history that is not whole."""
