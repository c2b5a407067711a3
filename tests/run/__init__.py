"""Tests of suite.run."""
