"""Distances between weighted samples, each beside the floor that exact samples reach."""
