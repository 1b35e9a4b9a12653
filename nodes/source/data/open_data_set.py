"""Open a data set by its path: local files, or a name on the Hugging Face hub."""

from genrl_graph.nodes.source.data.data_set import DataSet, is_local, local_data_set


def open_data_set(path: str, *, name: str | None, split: str, streaming: bool) -> DataSet:
    """Open a data set; `name` is the subset and `split` the split of a folder or of a data set on the hub.

    A path that exists is local, any other one is a name on the hub. Raises `DataError` if it does not exist.
    """
    if is_local(path):
        return local_data_set(path, name=name, split=split)
    from genrl_graph.nodes.source.data.hub import open_hub  # imports `datasets`, which takes a second

    return open_hub(path, name=name, split=split, streaming=streaming)
