"""The pipeline and the service on one machine, with stand-ins for Todoist and the LLM."""
