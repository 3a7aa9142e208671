"""The reference profile: what new data is compared with, in one versioned, fingerprinted file.

The file is a ZIP archive: ``header.json`` (format version, schema, summaries, names) and one
``.npy`` a named array. Nothing in it is executable. The same data and options give the same bytes
but for the time of creation, which the fingerprint leaves out.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from stream_monitor.cells import Cells, Summary, coarsened
from stream_monitor.errors import ProfileError
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.reference.segments import SegmentSet
from stream_monitor.schema import Column, FloatArray, IntArray, Kind, Role, Schema

FORMAT_VERSION = 2
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member, so that the archive depends on its content only
_MAX_HEADER = 64 * 2**20

Arrays = Mapping[str, np.ndarray[Any, Any]]


class _ColumnHeader(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    kind: Kind
    role: Role
    categories: list[str] = []
    n: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    skewness: float | None = None
    minimum_count: int = 0
    maximum_count: int = 0


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    fingerprint: str
    created: str
    model: str
    version: str
    rows: int
    chunk_rows: int
    compat: bool
    importances: dict[str, float]
    columns: list[_ColumnHeader]
    blocks: dict[str, int]
    segments: list[SegmentSet]


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of the traffic is compared with: all of it (label empty), or a segment."""

    label: str
    cells: Mapping[str, Cells]
    layout: Layout
    chunks: IntArray

    @property
    def reference(self) -> Counted:
        """What the part's whole reference counted."""
        return Counted(self.layout, self.chunks.sum(axis=0))


@dataclass(frozen=True, slots=True)
class Profile:
    """A reference profile.

    Attributes
    ----------
    model, version
        What it is the reference of.
    created
        RFC 3339.
    schema
        The columns that events bring.
    cells
        Every column's cells by name: the schema's columns, then the derived ones.
    rows
        Rows of the reference.
    chunk_rows : rows of a reference chunk.
    chunks : int64[chunks, layout.size]
        Counts of each chunk in time order; their sum is the reference's counts.
    learned
        Named arrays of each row and block method.
    blocks
        How many slots each block of the layout has.
    compat
        Whether it was built for NannyML's numbers.
    importances
        Of features, where they are configured.
    segments
        The parts of the traffic that are watched by themselves.
    segment_chunks : int64[segments, chunks, coarse layout.size]
    coarse
        The edges that segments keep of each column's cells.
    fingerprint
        Hexadecimal digest of everything but ``created``.
    """

    model: str
    version: str
    created: str
    schema: Schema
    cells: Mapping[str, Cells]
    rows: int
    chunk_rows: int
    chunks: IntArray
    learned: Mapping[str, Arrays]
    blocks: Mapping[str, int]
    compat: bool = False
    importances: Mapping[str, float] = field(default_factory=dict)
    segments: tuple[SegmentSet, ...] = ()
    segment_chunks: IntArray = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.int64))
    coarse: Mapping[str, FloatArray] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def layout(self) -> Layout:
        return Layout.of(self.cells, self.blocks)

    @property
    def whole(self) -> Part:
        """The reference of all rows."""
        return Part("", self.cells, self.layout, self.chunks)

    @property
    def parts(self) -> list[Part]:
        """The whole, then each segment."""
        coarse, _ = self.coarse_cells()
        layout = Layout.of(coarse, self.blocks)
        labels = [label for one in self.segments for label in one.labels]
        found = [self.whole]
        for label, chunks in zip(labels, self.segment_chunks, strict=True):
            own = Counted(layout, chunks.sum(axis=0))
            cells = {n: replace(column, counts=own.column(n)) for n, column in coarse.items()}
            found.append(Part(label, cells, layout, chunks))
        return found

    def coarse_cells(self) -> tuple[dict[str, Cells], IntArray]:
        """The columns in the cells that segments have, and where each slot of a column goes.

        The second is int64[...]: the slot in a segment's vector of each slot of :attr:`layout`.
        """
        cells: dict[str, Cells] = {}
        places = [np.zeros(1, dtype=np.int64)]
        end = 1
        for name, column in self.cells.items():
            cells[name], slots = column, np.arange(column.slots)
            if name in self.coarse:
                cells[name], slots = coarsened(column, self.coarse[name])
            places.append(slots + end)
            end += cells[name].slots
        return cells, np.concatenate(places)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Everything that is an array, by the name it has in the file."""
        found: dict[str, np.ndarray[Any, Any]] = {"chunks": self.chunks}
        for name, column in self.cells.items():
            found[f"columns/{name}/counts"] = column.counts
            if column.column.continuous:
                found[f"columns/{name}/edges"] = column.edges
                found[f"columns/{name}/points"] = column.points
            if column.summary is not None:
                found[f"columns/{name}/sample"] = column.summary.sample
                found[f"columns/{name}/distinct"] = column.summary.distinct
        for name, edges in self.coarse.items():
            found[f"columns/{name}/coarse"] = edges
        if self.segments:
            found["segments"] = self.segment_chunks
        for method, arrays in self.learned.items():
            for name, array in arrays.items():
                found[f"methods/{method}/{name}"] = array
        return found


def _float(value: float | None) -> float:
    return float("nan") if value is None else value


def _header(profile: Profile) -> _Header:
    columns = []
    for cells in profile.cells.values():
        header = _ColumnHeader(
            cells.column.name, cells.column.kind, cells.column.role, list(cells.categories)
        )
        if (s := cells.summary) is not None:
            header.n, header.minimum_count, header.maximum_count = (
                s.n, s.minimum_count, s.maximum_count,
            )  # fmt: skip
            if s.n:
                header.minimum, header.maximum = s.minimum, s.maximum
                header.mean, header.std, header.skewness = s.mean, s.std, s.skewness
        columns.append(header)
    return _Header(
        FORMAT_VERSION, "", profile.created, profile.model, profile.version,
        profile.rows, profile.chunk_rows, profile.compat,
        dict(profile.importances), columns, dict(profile.blocks),
        list(profile.segments),
    )  # fmt: skip


def _digest(header: _Header, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    neutral = msgspec.structs.replace(header, fingerprint="", created="")
    digest = blake2b(msgspec.json.encode(neutral), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def fingerprinted(profile: Profile) -> Profile:
    """The same profile with its fingerprint filled in."""
    return replace(profile, fingerprint=_digest(_header(profile), profile.arrays()))


def save(profile: Profile, path: Path) -> None:
    """Write the profile, atomically: a reader sees the old file or the new one."""
    arrays = profile.arrays()
    header = msgspec.structs.replace(_header(profile), fingerprint=profile.fingerprint)
    partial = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        text = orjson.dumps(msgspec.to_builtins(header), option=orjson.OPT_INDENT_2)
        archive.writestr(zipfile.ZipInfo("header.json", _EPOCH), text, zipfile.ZIP_DEFLATED)
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(arrays[name]), allow_pickle=False)
            member = zipfile.ZipInfo(f"arrays/{name}.npy", _EPOCH)
            archive.writestr(member, buffer.getvalue(), zipfile.ZIP_DEFLATED)
    partial.replace(path)


def load(path: Path) -> Profile:
    """Read a profile and check its fingerprint.

    Raises
    ------
    ProfileError
        Where the file is missing, is no profile, is of another format version, or was changed.
    """
    rebuild = "build it anew with `stream-monitor reference build`"
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("header.json")
            if info.file_size > _MAX_HEADER:
                raise ProfileError(f"{path}: its header has {info.file_size} bytes; {rebuild}")
            raw = orjson.loads(archive.read(info))
            version = raw.get("format_version") if isinstance(raw, dict) else None
            if version != FORMAT_VERSION:
                raise ProfileError(
                    f"{path}: format version {version!r}, this program reads {FORMAT_VERSION}; "
                    f"{rebuild}"
                )
            header = msgspec.convert(raw, _Header)
            arrays = {
                name.removeprefix("arrays/").removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
                if name.startswith("arrays/")
            }
    except FileNotFoundError:
        raise ProfileError(f"{path}: there is no such file; {rebuild}") from None
    except ProfileError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise many things
        raise ProfileError(f"{path}: not a reference profile ({error!r}); {rebuild}") from None
    if _digest(header, arrays) != header.fingerprint:
        raise ProfileError(f"{path}: its content does not fit its fingerprint; {rebuild}")
    return _assemble(header, arrays)


def _assemble(header: _Header, arrays: Arrays) -> Profile:
    none = np.empty(0)
    cells: dict[str, Cells] = {}
    for h in header.columns:
        column = Column(h.name, h.kind, h.role)
        at = f"columns/{h.name}/"
        summary = None
        if column.continuous and h.role is not Role.DERIVED:
            summary = Summary(
                h.n, _float(h.minimum), _float(h.maximum), _float(h.mean), _float(h.std),
                _float(h.skewness), h.minimum_count, h.maximum_count,
                arrays[at + "sample"], arrays[at + "distinct"],
            )  # fmt: skip
        cells[h.name] = Cells(
            column,
            arrays.get(at + "edges", none),
            arrays.get(at + "points", none),
            tuple(h.categories),
            arrays[at + "counts"],
            summary,
        )
    schema = Schema(tuple(c.column for c in cells.values() if c.column.role is not Role.DERIVED))
    learned: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for name, array in arrays.items():
        if name.startswith("methods/"):
            method, _, key = name.removeprefix("methods/").partition("/")
            learned.setdefault(method, {})[key] = array
    coarse = {n: arrays[at] for n in cells if (at := f"columns/{n}/coarse") in arrays}
    return Profile(
        header.model, header.version, header.created, schema, cells, header.rows,
        header.chunk_rows, arrays["chunks"], learned, header.blocks, header.compat,
        header.importances,
        tuple(header.segments), arrays.get("segments", np.zeros((0, 0, 0), dtype=np.int64)), coarse,
        header.fingerprint,
    )  # fmt: skip
