"""execute tests."""
