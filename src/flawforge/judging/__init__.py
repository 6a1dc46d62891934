"""Opening, exporting and timing a model; decisions as rows."""
