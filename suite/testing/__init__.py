"""Conformance kits for plug-ins: inherit from one class, say how yours is built, and run pytest.

Example:
    >>> class TestMine(SearcherConformance):
    ...     def make(self, problem, seed):
    ...         return Mine(problem, seed)
"""
