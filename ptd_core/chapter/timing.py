"""What a question's trainings took by the clock, seed by seed, beside what operations predict."""

import statistics

from ptd_core.chapter.answers import Answer
from ptd_core.chapter.judging import arm_name
from ptd_core.records.effects import faster_by_seed
from ptd_core.records.markdown import markdown_table
from ptd_core.views.times import Times


def times(one: Answer) -> list[Times]:
    """Each arm against its controls, where one device ran both."""
    cells = {cell.name: cell for cell in one.cells}
    found = []
    for effect in one.effects:
        clock = faster_by_seed(cells[effect.arm], cells[effect.control])
        if clock:
            found.append(Times(arm_name(effect.arm), arm_name(effect.control), tuple(clock), effect.predicted))
    return found


def times_table(found: list[Times]) -> str:
    """Markdown: median and range over the seeds."""
    rows = []
    for one in found:
        clock = f"{statistics.median(one.clock):.3f}x", f"{min(one.clock):.3f} to {max(one.clock):.3f}"
        rows.append([one.arm, one.control, len(one.clock), *clock, f"{one.predicted:.3f}x"])
    return markdown_table(["arm", "control", "n", "faster, by the clock", "range", "by operations"], rows)
