"""The output of `sweep --dry`: the cells, and how long they take and how much disk."""

from genrl_graph.messages import counted
from genrl_graph.runners.estimate.forecast import duration_text, size_text
from genrl_graph.runners.sweep.capacity import Capacity
from genrl_graph.runners.sweep.plan import SweepPlan

SHOWN = 40


def dry_text(plan: SweepPlan, room: Capacity) -> str:
    """Return the plan of a sweep as text."""
    record, options = plan.record, plan.options
    settings = options.trials or len(plan.settings)
    lines = [
        f"{counted(plan.count, 'cell')}: {counted(settings, 'setting')} x {counted(len(record.seeds), 'seed')}",
        "",
    ]
    for cell in record.cells[:SHOWN]:
        lines.append(f"  {cell.name}  {' '.join(cell.overrides)}")
    if len(record.cells) > SHOWN:
        lines.append(f"  ... and {len(record.cells) - SHOWN} more")
    if options.trials:
        axes = " ".join(record.axes)
        lines.append(f"  {counted(options.trials, 'setting')} are drawn from {axes}")
    if record.rungs:
        rounds = ", ".join(map(str, record.rungs))
        lines.append(
            f"  one setting in {options.keep} goes on after {rounds} rounds: the times below are for all of them"
        )
    threads = "" if room.threads is None else f" with {counted(room.threads, 'thread')} each"
    lines += ["", f"side by side  {room.jobs}{threads} ({room.reason})"]
    lines.append(f"time          {duration_text(room.total_seconds(plan.count))}")
    lines.append(f"disk          {size_text(room.total_disk(plan.count))}")
    if room.unknown:
        lines.append(f"unknown (?): {room.unknown}")
    elif len(room.forecasts) < len(plan.settings):
        lines.append(f"estimated by  {len(room.forecasts)} of {counted(len(plan.settings), 'setting')}")
    return "\n".join(lines) + "\n"
