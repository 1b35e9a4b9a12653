"""The documentation: Markdown pages, and what is generated for them from the code. `make docs` builds the site."""
