"""Conformance kits for plug-ins: inherit from one class, say how yours is built, and run pytest."""
