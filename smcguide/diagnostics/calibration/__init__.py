"""Whether posteriors mean what they say, over many simulated data sets."""
