"""What every provider that speaks HTTP needs: settings, connections, errors, server-sent events. For plugin authors.

`client`: all that lies between a provider's methods and the connections. `config`: the keys of its table.
`answer`, `sse`: bodies of answers, however they are cut. `shapes`, `dataurl`: OpenAI's requests and answers, for
plugins that translate them. `errors`, `headers`, `body`, `endpoint`: the rules. `transport`, `watchdog` and the
rest: the way to the wire, which few plugins need by itself.

Importing it loads an HTTP client, so nothing but plugins does.
"""

from deltabus.http.answer import Body, DocumentDecoder
from deltabus.http.client import Client, Decoder
from deltabus.http.config import Config, Timeouts
from deltabus.http.endpoint import Endpoint
from deltabus.http.inflate import Inflater
from deltabus.http.multipart import Form
from deltabus.http.outgoing import Outgoing
from deltabus.http.sse import SSEDecoder
from deltabus.http.transport import Exchange, Transport
from deltabus.http.watchdog import Watchdog

__all__ = [
    "Body",
    "Client",
    "Config",
    "Decoder",
    "DocumentDecoder",
    "Endpoint",
    "Exchange",
    "Form",
    "Inflater",
    "Outgoing",
    "SSEDecoder",
    "Timeouts",
    "Transport",
    "Watchdog",
]
