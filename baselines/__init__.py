"""Published mixed-precision methods and trivial ones, one file each; their names are in ``suite.plugins``."""
