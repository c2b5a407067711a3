"""Tests of the quantizers and of quantized networks."""
