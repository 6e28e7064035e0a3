"""From run logs to figures, tables and whole comparisons. Reads files only, and imports no MXNet."""
