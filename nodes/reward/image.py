"""`reward.image`: a function of images as a reward."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.images import Images
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.nodes.functions.callables import worker_target
from genrl_graph.nodes.functions.named import by_name, require_name
from genrl_graph.nodes.reward.scoring.arguments import image_arguments
from genrl_graph.nodes.reward.scoring.function_calls import CallingReward, Keywords
from genrl_graph.nodes.reward.scoring.image_calls import in_base64, on_images, with_decoded
from genrl_graph.nodes.reward.scoring.image_functions import READY


def _ready_or_named(function: object, info: ValidationInfo) -> object:
    if isinstance(function, str) and ":" not in function:
        if function not in READY:
            raise ValueError(f"{function!r} is none of {', '.join(READY)}; for an own function write module:name")
    elif isinstance(function, str):
        require_name(function, info)
    return function


ImageFunction = Annotated[
    str | Callable[..., Any], BeforeValidator(by_name, json_schema_input_type=str), AfterValidator(_ready_or_named)
]
"""A ready function by its name, or one of the user's."""


class ImageReward(CallingReward, name="image"):
    """The value of `function(images, captions, **columns)`: one number per image, None for "cannot judge".

    `images` are arrays [height, width, RGB] of uint8. `function` is `brightness`, `jpeg_compressibility` or
    `jpeg_incompressibility` (kB of the image as JPEG, arXiv 2305.13301), or `module:name` of an own one. Columns are
    `answer`, the keys of the tasks' metadata, and ids, stage, round, finish reason and size of the rows.

    The three ready functions run in this process. Own ones run as those of `reward.function` do: with `isolated` in
    `workers` processes with limits of time and memory, and never on images of two peers in one call.
    """

    function: ImageFunction = Field(
        description="brightness, jpeg_compressibility or jpeg_incompressibility, or module:name of an own function"
    )

    @property
    def overlaps(self) -> bool:
        """Return True unless an own function runs in this process, where it may need the main thread."""
        return self._is_ready or self._in_worker

    def run(self, images: Images, *, tasks: TaskBook, log: Log, peer: str = "") -> Scored[Images]:
        """Add `reward` and `reward_<term>` to the images; the default term is the function's name.

        Raises `RewardFailed` if the function cannot be loaded or leaves more rows unjudged than `max_unjudged` allows.

        Inputs:
            images: images to judge
        """

        def keywords(rows: Images) -> Keywords:
            columns = image_arguments(rows, tasks, renamed=self.columns, where=self.place.node)
            return columns | {"images": in_base64(columns["images"])}

        return self.scored(images, keywords, log=log, peer=peer)

    @property
    def _is_ready(self) -> bool:
        return isinstance(self.function, str) and self.function in READY

    @property
    def _in_worker(self) -> bool:
        return not self._is_ready and super()._in_worker

    def _worker_function(self) -> tuple[str, Mapping[str, Any] | None]:
        assert isinstance(self.function, str)
        factory = {"function": worker_target(self.function), "factory": self.factory}
        return f"{on_images.__module__}:{on_images.__qualname__}", factory

    def _function_here(self) -> Callable[..., Any]:
        if self._is_ready:
            assert isinstance(self.function, str)
            return with_decoded(READY[self.function])
        return with_decoded(super()._function_here())
