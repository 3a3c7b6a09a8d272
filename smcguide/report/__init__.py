"""One page that says what was run and whether to trust it."""
