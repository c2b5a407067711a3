"""Plug-ins for bitcert; ``pyproject.toml`` names them, and bitcert finds them there once the package is installed."""
