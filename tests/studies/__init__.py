"""studies tests."""
