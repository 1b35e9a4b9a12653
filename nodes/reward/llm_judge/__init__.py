"""Ask a judge (a served model or a policy) and read its replies."""
