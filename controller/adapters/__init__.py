"""One adapter per outside system. An adapter translates; it holds no decisions."""
