"""What can be set, from environment and file: `Settings`, which everybody else takes as it is.

`load` reads them. `settingrules` says what each must be, `configfile` and `configvalue` read `deltabus.toml`,
`providertable` its providers, `secretsource` what stands in files or comes from commands.
"""

from deltabus.settings.settings import ProviderSettings, Setting, Settings, load

__all__ = ["ProviderSettings", "Setting", "Settings", "load"]
