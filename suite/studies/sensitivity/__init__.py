"""The study `sensitivity`."""
