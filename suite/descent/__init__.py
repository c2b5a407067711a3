"""Descents of real-valued bit widths: they know the space and its costs, and ask a task for losses and slopes."""

from suite.descent.descend import descend, passes
from suite.descent.relaxed import cells
from suite.descent.task import BitTask

__all__ = ["BitTask", "cells", "descend", "passes"]
