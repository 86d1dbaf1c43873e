"""The request path: a tip over HTTP, chosen among candidates of the stored context."""
