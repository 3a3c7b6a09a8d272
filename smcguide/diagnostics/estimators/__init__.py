"""Expectations with less variance from the particles that are there."""
