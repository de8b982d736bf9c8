"""What is on disk: keys, records, the engine, the directory."""
