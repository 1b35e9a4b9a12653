"""The run folder on disk: journal, zarr arrays, manifest."""
