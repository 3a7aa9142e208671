"""Half-Space Trees as arrays: River's trees, masses and scores, a batch at a time.

A tree is drawn once and never changes, so a batch is sorted into the leaves level by level, all
trees at once. The leaf says the whole path: masses of inner nodes are sums over leaves, and a
row's part of a score, River's early stop included, is one number a leaf.

Nodes of one level are numbered over the whole forest, tree by tree: node ``p`` has the children
``2 p`` (left) and ``2 p + 1`` (right) in the level below, and the root of tree ``t`` is ``t``.

Sources: Tan, Ting & Liu, "Fast anomaly detection for streaming data", IJCAI 2011; River 0.26
``anomaly.HalfSpaceTrees``, whose scores these are to the last bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_monitor.schema import BoolArray, FloatArray, IntArray

CHUNK = 1024  # rows sorted at once: what is gathered from stays in the second-level cache

_PADDING = 0.15  # a cut keeps this part of a node's range away from its ends
_SIZE_LIMIT = 0.1  # the walk stops below an inner node with a smaller part of the window's rows

# (level, node intp[T, n], right bool[T, n], absent bool[T, n]): sets ``right`` where ``absent``
Resolve = Callable[[int, NDArray[np.intp], BoolArray, BoolArray], None]


class Totals(NamedTuple):
    """Of each node of one level, int64[…, T * 2**level], by which all below it are alike.

    A leaf's node is its number without the last ``shift`` bits.
    """

    values: IntArray
    shift: int


@dataclass(frozen=True, slots=True)
class Trees:
    """The cuts of a forest in heap order: node ``i`` of a tree has children 2i + 1 and 2i + 2.

    Attributes
    ----------
    feature : int32[T, 2**height - 1]
        Which feature an inner node cuts, by position.
    threshold : float64[T, 2**height - 1]
        A row goes left if its value is below.
    """

    feature: NDArray[np.int32]
    threshold: FloatArray
    # by level, as a walk needs them: where a node's feature begins in CHUNK values of each, and
    # its threshold
    _cuts: list[tuple[IntArray, FloatArray]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cuts = []
        for level in range(self.height):
            inner = slice((1 << level) - 1, (2 << level) - 1)
            begins = self.feature[:, inner].ravel().astype(np.intp) * CHUNK
            cuts.append((begins, self.threshold[:, inner].ravel()))
        object.__setattr__(self, "_cuts", cuts)

    @property
    def number(self) -> int:
        return int(self.feature.shape[0])

    @property
    def height(self) -> int:
        return int(self.feature.shape[1] + 1).bit_length() - 1

    @property
    def leaf_count(self) -> int:
        """Leaves of the whole forest."""
        return self.number << self.height

    def leaves(self, columns: FloatArray, resolve: Resolve | None = None) -> NDArray[np.intp]:
        """The leaf that each row ends in, in each tree.

        Parameters
        ----------
        columns : float64[F, n]
            One row a feature, of at most ``CHUNK`` values. ±inf is compared as any number.
        resolve
            Decides where NaN goes; without it a NaN goes left.

        Returns
        -------
        intp[T, n]: numbers of leaves, ``0 … leaf_count - 1``.
        """
        n = columns.shape[1]
        rows = np.arange(n)
        spread = np.empty((len(columns), CHUNK))
        spread[:, :n] = columns
        values = spread.ravel()
        node = np.empty((self.number, n), dtype=np.intp)
        node[:] = np.arange(self.number)[:, None]
        index = np.empty_like(node)
        value, threshold = np.empty(node.shape), np.empty(node.shape)
        right = np.empty(node.shape, dtype=np.bool_)
        for level, (begins, thresholds) in enumerate(self._cuts):
            if not level:  # all rows come through the root: nothing is to be gathered
                np.take(columns, self.feature[:, 0], axis=0, out=value, mode="clip")
                np.greater_equal(value, thresholds[:, None], out=right)
            else:
                # indices are in range by construction; "clip" spares NumPy a buffered check
                np.take(begins, node, out=index, mode="clip")
                index += rows
                np.take(values, index, out=value, mode="clip")
                np.take(thresholds, node, out=threshold, mode="clip")
                np.greater_equal(value, threshold, out=right)
            if resolve is not None:
                absent = np.isnan(value)
                if absent.any():
                    resolve(level, node, right, absent)
            node += node
            node += right
        return node

    def masses(self, leaf_mass: IntArray) -> list[IntArray]:
        """The mass of each node, one int64[…, T * 2**level] a level, summed from the leaves'."""
        levels = [leaf_mass]
        for _ in range(self.height):
            below = levels[-1]
            levels.append(below[..., 0::2] + below[..., 1::2])
        return levels[::-1]

    def totals(self, mass_at: Callable[[int], IntArray], window: int) -> Totals:
        """What a row that comes through a node adds to the sum behind its score.

        The sum of mass × 2**depth over the path, up to and with the first inner node of fewer
        than 0.1 × ``window`` rows. Below the level where that holds everywhere nothing is added,
        so a window of few rows costs little, however high the trees.

        Parameters
        ----------
        mass_at
            int64[…, T * 2**level], learned rows by node of a level; of several windows at once.
        window
            How many rows were learned.

        Returns
        -------
        Exact up to 2**63 / 2**(height + 1) learned rows.
        """
        level, total = 0, mass_at(0)
        going = total >= _SIZE_LIMIT * window
        while level < self.height and going.any():
            level += 1
            mass, going = mass_at(level), np.repeat(going, 2, axis=-1)
            total = np.repeat(total, 2, axis=-1) + (mass << level) * going
            going &= mass >= _SIZE_LIMIT * window
        return Totals(total, self.height - level)

    def isolation(self, leaf_mass: IntArray, window: int) -> tuple[IntArray, FloatArray]:
        """The cut that sets the rows of a leaf most apart, of those that count in its score.

        A cut after which m of M learned rows are left sets a row apart by
        log₂((M + 2) / (2 (m + 1))) bits: 0 where it halves them, more the fewer are left. The
        first of equal ones counts.

        Parameters
        ----------
        leaf_mass : int64[leaf_count]
            Learned rows a leaf.
        window
            How many rows were learned.

        Returns
        -------
        int64[leaf_count], the feature that it cuts, by position; float64[leaf_count], its bits,
        0 where no cut on the path leaves less than half.
        """
        levels = self.masses(leaf_mass)
        best, bits = np.zeros(self.number, dtype=np.int64), np.zeros(self.number)
        going = levels[0] >= _SIZE_LIMIT * window
        for level, mass in enumerate(levels[1:]):
            inner = slice((1 << level) - 1, (2 << level) - 1)
            feature = np.repeat(self.feature[:, inner].ravel(), 2)
            apart = np.log2((np.repeat(levels[level], 2) + 2) / (2 * (mass + 1)))
            best, bits, going = np.repeat(best, 2), np.repeat(bits, 2), np.repeat(going, 2)
            better = going & (apart > bits)
            best[better], bits[better] = feature[better], apart[better]
            going &= mass >= _SIZE_LIMIT * window
        return best, bits

    def scores(
        self,
        totals: Totals,
        window: int,
        leaves: NDArray[np.intp],
        learned: IntArray | None = None,
    ) -> FloatArray:
        """float64[n] in [0, 1]: 1 − sum over trees / (T × window × (2**(height + 1) − 1)).

        ``learned`` int64[n] says which window each row is scored by, where there are totals of
        several.
        """
        greatest = self.number * window * ((2 << self.height) - 1)
        nodes = leaves >> totals.shift if totals.shift else leaves
        if learned is not None:
            nodes = nodes + learned * totals.values.shape[-1]
        shares: FloatArray = np.take(totals.values, nodes).sum(axis=0) / greatest
        return 1.0 - shares


def grow(limits: FloatArray, *, number: int, height: int, seed: int) -> Trees:
    """River's random trees: the same cuts for the same seed, limits and order of features.

    Nodes are drawn in preorder, the trees one after another, from one generator: a feature with
    probability proportional to the width that the node's box has in it, then a cut uniformly in
    the middle 70 % of that width.

    Parameters
    ----------
    limits : float64[F, 2]
        Least and greatest value of each feature; River sorts features by name.
    number, height
        Number of trees (>= 1) and of cuts on each path (>= 1).
    seed
        Of :class:`random.Random`.

    Raises
    ------
    ValueError
        Where no feature has a width, or one of them or their sum is not finite.
    """
    low, high = limits[:, 0].tolist(), limits[:, 1].tolist()
    widths = [b - a for a, b in zip(low, high, strict=True)]
    if not (min(widths, default=0) >= 0 < sum(widths) < float("inf")):
        raise ValueError(
            f"limits {limits.tolist()} span no finite box; leave out constant and unbounded "
            f"features and give each as (least, greatest)"
        )
    generator = random.Random(seed)  # noqa: S311 - the trees are no secret, they are River's
    features = range(len(limits))
    nodes = (1 << height) - 1
    feature = np.empty((number, nodes), dtype=np.int32)
    threshold = np.empty((number, nodes))

    def cut(tree: int, node: int) -> None:
        if node >= nodes:
            return
        on = generator.choices(features, [b - a for a, b in zip(low, high, strict=True)])[0]
        a, b = low[on], high[on]
        at = generator.uniform(a + _PADDING * (b - a), b - _PADDING * (b - a))
        feature[tree, node], threshold[tree, node] = on, at
        high[on] = at
        cut(tree, 2 * node + 1)
        low[on], high[on] = at, b
        cut(tree, 2 * node + 2)
        low[on] = a

    for tree in range(number):
        cut(tree, 0)
    return Trees(feature, threshold)
