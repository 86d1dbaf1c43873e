"""The asset engine: reads the graph from function signatures, plans and materializes shards; knows no domain."""
