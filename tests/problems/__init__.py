"""Tests of suite.problems."""
