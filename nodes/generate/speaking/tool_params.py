"""Params of generators whose seats may call tools, and what can be said of them before a run."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from pydantic import Field, field_validator, model_validator

from genrl_graph.contract.policy import TextPolicy
from genrl_graph.errors import DataError
from genrl_graph.nodes.generate.prompting.prompts import check_template
from genrl_graph.nodes.generate.speaking.chats import History
from genrl_graph.nodes.generate.speaking.tool_formats import TEXT_FORMATS, ToolFormat
from genrl_graph.nodes.generate.speaking.tool_parts import ToolPart
from genrl_graph.nodes.generate.speaking.toolbox import NO_TEMPLATE, PROBE, Toolbox, ToolRules
from genrl_graph.nodes.generate.text_generator import TextGenerator


class ToolGenerator(TextGenerator):
    """Samples turns of language models that may call tools."""

    history: History = "sampled"
    tools: tuple[ToolPart, ...] = Field(
        default=(), description="tools that seats may call, each a type of kind tool with its params"
    )
    tool_format: ToolFormat = "auto"
    tool_prompt: str | None = Field(
        default=None,
        description="Jinja template of what the system message says of `tools` (each with name, description and "
        "parameters); null: that of the format; unused where the chat template tells of tools",
    )
    max_tool_calls: int = Field(default=8, ge=1, le=256, description="calls of one turn; those beyond are refused")
    max_result_characters: int = Field(
        default=4096, ge=1, le=2**18, description="characters of a result; the rest is cut, and its length told"
    )

    @field_validator("tool_prompt")
    @classmethod
    def _tells(cls, template: str | None) -> str | None:
        if template is not None:
            check_template(template, ("tools",))
        return template

    @model_validator(mode="after")
    def _remembers_results(self) -> Self:
        if self.tools and self.history == "none":
            raise ValueError("history is none, so the result of a call is read without the question; set sampled")
        return self

    def prepare(self) -> None:
        """Load the tools; raises `DataError` if one cannot be used here, or two have one name."""
        for tool in self.tools:
            tool.prepare()
        if self.tools:
            rules = self.tool_rules()
            Toolbox(rules if rules.format in TEXT_FORMATS else replace(rules, format="json"), {}, None)

    def check_data(self) -> Iterable[str]:
        """Return what the tools miss on this machine, for the command `check`."""
        return [problem for tool in self.tools for problem in tool.check_data()]

    def tool_rules(self) -> ToolRules:
        """Return the tools, how calls are written, and the limits."""
        limits = (self.max_tool_calls, self.max_result_characters)
        return ToolRules(self.tools, self.tool_format, self.tool_prompt, *limits, self.place.node)

    def prove_chats(self, policy: TextPolicy) -> None:
        """Raise `DataError` if chats of a policy cannot be continued, or its template takes no tools as it must."""
        if self.history == "sampled":
            policy.prove_extend()
        if self.tools and self.tool_format in ("auto", "template"):
            chat = policy.tool_chat(PROBE)
            if chat is not None:
                chat.prove_extend()
            elif self.tool_format == "template":
                raise DataError(NO_TEMPLATE)
