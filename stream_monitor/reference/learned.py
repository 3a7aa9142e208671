"""What a reference learned, made ready: the decoder's target and the methods' objects."""

from __future__ import annotations

from collections.abc import Mapping

from stream_monitor.cells import Cells
from stream_monitor.decode.base import Target
from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import Arrays, Block, Registry, RowScorer, Sketcher
from stream_monitor.schema import Schema


def loaded(
    registry: Registry,
    schema: Schema,
    cells: Mapping[str, Cells],
    learned: Mapping[str, Arrays],
) -> tuple[dict[str, RowScorer], dict[str, Block], dict[str, Sketcher]]:
    """The row, block and sketch methods as learned, by name."""
    known = registry.row.keys() | registry.block.keys() | registry.sketch.keys()
    if unknown := sorted(learned.keys() - known):
        raise ProfileError(
            f"the reference was built with {', '.join(unknown)}, which this version does not have; "
            "build it anew with `stream-monitor reference build`"
        )
    scorers = {n: registry.row[n].load(schema, a) for n, a in learned.items() if n in registry.row}
    blocks = {
        name: registry.block[name].load(schema, cells, arrays)
        for name, arrays in learned.items()
        if name in registry.block
    }
    sketchers = {
        name: registry.sketch[name].load(schema, cells, arrays)
        for name, arrays in learned.items()
        if name in registry.sketch
    }
    return scorers, blocks, sketchers


def target_of(model: str, version: str, schema: Schema, cells: Mapping[str, Cells]) -> Target:
    """What decoders need to know of a model with these cells."""
    categories = {
        c.name: {name: i for i, name in enumerate(cells[c.name].categories)}
        for c in schema.categorical
    }
    return Target(model, version, schema, categories)
