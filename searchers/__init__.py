"""Learned and general-purpose search methods, one file each; their names are in ``suite.plugins``."""
