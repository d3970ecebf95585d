"""deltabus: a message bus for language-model work."""
