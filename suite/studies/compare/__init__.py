"""The study `compare`."""
