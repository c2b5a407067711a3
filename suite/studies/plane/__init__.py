"""The study `plane`."""
