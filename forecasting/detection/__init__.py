"""Is a metric series, seen one value at a time, still what it was? The streaming detector of anomalies."""
