"""A server that speaks the OpenAI API on a real socket and keeps what it is given: files, uploads, what was asked.

`ApiServer` is the server; `Dialect` says how it differs from OpenAI's, `Fault` what goes wrong with a request.
"""

from deltabus.testing.api.dialect import LOCALAI, NO_FILE_PARTS, NO_FILES, OPENAI, Dialect
from deltabus.testing.api.fault import Fault
from deltabus.testing.api.record import Received
from deltabus.testing.api.server import ApiServer
from deltabus.testing.api.store import StoredFile

__all__ = [
    "LOCALAI",
    "NO_FILES",
    "NO_FILE_PARTS",
    "OPENAI",
    "ApiServer",
    "Dialect",
    "Fault",
    "Received",
    "StoredFile",
]
