"""The study `search`."""
