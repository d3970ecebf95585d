"""The plugin in here has tests of its own, which run where it is installed: `test_plugin.py` sees to that."""

collect_ignore = ["deltabus-ollama"]
