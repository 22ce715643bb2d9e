"""Run the derivations of a whole batch over vectors: no Python loop over sentences or nodes, only over groups.

A *schedule* says which nodes are composed together. By step: all rows that REDUCE at the same step of the
lockstep parser; the only order possible when a tracker feeds the composition. By level: all nodes of equal height.
Either way the nodes of a group are neighbours in one preallocated table, so that a group is one gather, one
composition, one write.

Forward and backward are written by hand (`rlparse.models.cells`): autograd sees one function. Every gradient of a node
comes from one place, so that backward gathers like forward does and never adds into a table; with a tracker, which
reads the same node in many steps, it adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlparse import PAD, lockstep
from rlparse.compiled import Kernels, replay_kernels, row_adder
from rlparse.lockstep import REDUCE, Trace
from rlparse.models.cells import Cell, Children, Given, Planes
from rlparse.models.composition import Composition
from rlparse.models.tables import give_back, room
from rlparse.models.tracker import Tracker, TrackerCell

ScheduleName = Literal["by_step", "by_level"]

SCHEDULES: dict[str, Callable[[Trace], Tensor]] = {
    "by_step": lambda trace: trace.steps,
    "by_level": lambda trace: trace.heights,
}
"""What the nodes of one group share: [R, N - 1] int64, ascending in an order in which children come first."""


Chooser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Choose transitions: (tracker's hidden vectors [a, H], stack sizes [a], buffer sizes [a]) to [a] int64.

Legal are SHIFT while the buffer is not empty and REDUCE while two items are on the stack."""


class Layout(NamedTuple):
    """Where every node of a batch lies in the table: all leaves first, then the groups in order.

    Attributes:
        position: [R, 2N - 1] int64. Table row of each node id; where there is no node, that of the zeros at the end.
        tokens: [L] int64. Table row of every token, sentence by sentence; None where that is 0 .. L - 1.
        children: [M, 2] int64. Table rows of the left and right child of the m-th composed node.
        rows: [M] int64. Batch row it belongs to.
        roots: [R] int64. Table row of the node that covers each sentence.
        parents: [L + M] int64. For every token, then for every composed node: ``2 m + side`` where it is a
            child of the m-th composed node, ``2 M + r`` where it is the root of batch row r.
        sizes: Nodes in each group; they add up to M.
        n_tokens: L.
        n_leaves: U, leaves in the table: tokens may share one.
    """

    position: Tensor
    tokens: Tensor | None
    children: Tensor
    rows: Tensor
    roots: Tensor
    parents: Tensor
    sizes: list[int]
    n_tokens: int
    n_leaves: int


class Encoding(NamedTuple):
    """The vectors of a batch of trees.

    Attributes:
        roots: [R, D] float. Hidden vector of the node that covers each sentence.
        table: [U + M + 1, D] float. Hidden vectors of leaves and nodes, in the layout's order, and a row of zeros,
            which stands for "nothing there".
        layout: Where they lie.
        trace: The derivations that made them.
        tracker: [R, T, H] float. Tracker's hidden vectors after reading each step (zeros past a row's end), or None.
    """

    roots: Tensor
    table: Tensor
    layout: Layout
    trace: Trace
    tracker: Tensor | None


def lay_out(trace: Trace, schedule: str, leaves: Tensor | None = None, n_leaves: int = 0) -> Layout:
    """Place the nodes of a batch in one table, group after group.

    Args:
        trace: Of the batch.
        schedule: ``by_step`` or ``by_level``.
        leaves: [R, N] int64. Leaf that each token is; None gives every token one of its own, sentence by sentence.
        n_leaves: Of how many ``leaves`` speaks.

    Raises:
        ValueError: The schedule is unknown.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    kernels = replay_kernels()
    if kernels is not None:
        return _lay_out_compiled(kernels, trace, SCHEDULES[schedule](trace), leaves, n_leaves)
    lengths, device = trace.lengths, trace.lengths.device
    rows, n_inner = trace.steps.shape
    n_tokens = n_inner + 1
    L = int(lengths.sum())
    M = L - rows
    places = torch.arange(n_tokens, device=device)
    is_token = places < lengths.unsqueeze(1)
    # Numbers in the batch: tokens 0 .. L - 1, sentence by sentence, then composed nodes group by group, then nothing.
    keys = SCHEDULES[schedule](trace)
    order = torch.where(is_token[:, 1:], keys, trace.tops.shape[1] + 1).flatten().sort(stable=True)
    inner = torch.empty_like(order.indices)
    inner[order.indices] = torch.arange(L, L + inner.shape[0], device=device)
    first_token = (lengths.cumsum(0) - lengths).unsqueeze(1)
    tokens = torch.where(is_token, first_token + places, L + M)
    numbers = torch.cat((tokens, inner.view(rows, n_inner).clamp_max_(L + M)), dim=1)
    made = order.indices[:M]
    node_rows = made // max(n_inner, 1)
    ids = trace.children.view(-1, 2)[made] + (node_rows * numbers.shape[1]).unsqueeze(1)
    children = numbers.flatten()[ids]
    roots = numbers.gather(1, torch.where(lengths > 1, n_inner + lengths - 1, 0).unsqueeze(1)).squeeze(1)
    parents = torch.empty(L + M, dtype=torch.int64, device=device)
    parents[children.flatten()] = torch.arange(2 * M, device=device)
    parents[roots] = torch.arange(2 * M, 2 * M + rows, device=device)
    sizes = [size for size in torch.bincount(order.values[:M]).tolist() if size]
    if leaves is None:
        return Layout(numbers, None, children, node_rows, roots, parents, sizes, L, L)
    own = leaves.flatten()[is_token.flatten().nonzero().squeeze(1)]
    table_rows = torch.cat((own, torch.arange(n_leaves, n_leaves + M + 1, device=device)))
    return Layout(
        table_rows[numbers],
        own,
        table_rows[children],
        node_rows,
        table_rows[roots],
        parents,
        sizes,
        L,
        n_leaves,
    )


def _lay_out_compiled(
    kernels: Kernels, trace: Trace, keys: Tensor, leaves: Tensor | None, n_leaves: int
) -> Layout:
    """Do the same in one pass over the nodes, on the CPU."""
    device = trace.lengths.device
    lengths = trace.lengths.cpu().contiguous()
    rows, n_inner = trace.steps.shape
    L = int(lengths.sum())
    M = L - rows
    if leaves is None:
        n_leaves = L
    shapes = [(rows, 2 * n_inner + 1), (rows, 2 * n_inner + 1), (L,), (M, 2), (M,), (rows,), (L + M,)]
    numbers, position, tokens, children, node_rows, roots, parents = map(lengths.new_empty, shapes)
    counts = lengths.new_empty(trace.tops.shape[1] + 1)
    kernels.lay_out(
        L,
        len(counts),
        n_leaves,
        lengths,
        trace.children.cpu().contiguous(),
        keys.cpu().contiguous(),
        numbers,
        position,
        tokens,
        children,
        node_rows,
        roots,
        parents,
        counts,
        leaves=None if leaves is None else leaves.cpu().contiguous(),
    )
    sizes = [size for size in counts.tolist() if size]
    if device.type == "cuda":
        placed = (position, tokens, children, node_rows, roots, parents)
        position, tokens, children, node_rows, roots, parents = (
            table.pin_memory().to(device, non_blocking=True) for table in placed
        )
    own = None if leaves is None else tokens
    return Layout(position, own, children, node_rows, roots, parents, sizes, L, n_leaves)


def distinct_words(tokens: Tensor, n_types: int) -> tuple[Tensor, Tensor]:
    """Find the words of a batch, each once, so that a word is embedded and projected once however often it occurs.

    Args:
        tokens: [R, N] int64. Vocabulary indices.
        n_types: Entries of the vocabulary.

    Returns:
        The vocabulary indices of the words, [U] int64 ascending, and for every token which of them it is, [R, N] int64.
    """
    seen = torch.zeros(n_types, dtype=torch.int64, device=tokens.device)
    seen[tokens.flatten()] = 1
    return seen.nonzero().squeeze(1), (seen.cumsum(0) - 1)[tokens]


class StackMachine(nn.Module):
    """Compose every sentence of a batch along its derivation.

    Args:
        composition: What REDUCE computes.
        tracker: Read the stack at every step and feed the composition (SPINN); its width must be the
            composition's ``tracker_size``.
        schedule: ``by_step`` or ``by_level``; with a tracker always by step.

    Raises:
        ValueError: Tracker and composition do not fit each other, or the schedule is unknown.
    """

    def __init__(
        self, composition: Composition, tracker: Tracker | None = None, *, schedule: str = "by_level"
    ) -> None:
        super().__init__()
        width = 0 if tracker is None else tracker.hidden_size
        if width != composition.tracker_size:
            raise ValueError(
                f"the composition reads a tracker of width {composition.tracker_size}, got one of width {width}"
            )
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
        self.composition = composition
        self.tracker = tracker
        self.schedule = "by_step" if tracker is not None else schedule

    def forward(self, embeddings: Tensor, trace: Trace, words: Tensor | None = None) -> Encoding:
        """Encode a batch of sentences along known derivations.

        Args:
            embeddings: [R, N, E] float, one for every token; what stands past a sentence's length is never read. With
                ``words``: [U, E] float, one for every word.
            trace: What `lockstep.trace` makes of the batch's derivations, which it checks.
            words: [R, N] int64. Which row of ``embeddings`` each token is, as `distinct_words` gives it.

        Raises:
            ValueError: Shapes do not fit each other.
        """
        rows, n_steps = trace.tops.shape[:2]
        n_tokens = (n_steps + 1) // 2
        named, given = ("embeddings", embeddings) if words is None else ("words", words)
        if given.dim() != (3 if words is None else 2) or given.shape[:2] != (rows, n_tokens):
            raise ValueError(
                f"{named} must be [R, N{', E' if words is None else ''}] with R = {rows} and N = {n_tokens} as the "
                f"derivations have it, got {tuple(given.shape)}"
            )
        if self.tracker is None:
            leaves = _real_tokens(embeddings, trace.lengths) if words is None else embeddings
            layout = lay_out(trace, self.schedule, words, leaves.shape[0])
            roots, table = _compose(self.composition, layout, leaves)
            return Encoding(roots, table, layout, trace, None)
        # Longest first, so that the rows still running are always the first ones.
        order = torch.argsort(trace.lengths, descending=True, stable=True)
        in_order = Trace(*(field[order] for field in trace))
        if words is None:
            leaves, places = _real_tokens(embeddings[order], in_order.lengths), None
        else:
            leaves, places = embeddings, words[order]
        layout = lay_out(in_order, "by_step", places, leaves.shape[0])
        table, tracked = self._track(leaves, in_order.lengths, n_steps, _replay(layout, in_order))
        return self._encoding(table, tracked, layout, order, trace)

    @staticmethod
    def _encoding(table: Tensor, tracked: Tensor, layout: Layout, order: Tensor, trace: Trace) -> Encoding:
        """Undo the sorting of rows; ``trace`` is of the batch as it came."""
        back = torch.argsort(order)
        roots = layout.roots[back]
        layout = layout._replace(position=layout.position[back], rows=order[layout.rows], roots=roots)
        return Encoding(table.index_select(0, roots), table, layout, trace, tracked.index_select(0, back))

    def sample(
        self, embeddings: Tensor, lengths: Tensor, choose: Chooser, words: Tensor | None = None
    ) -> tuple[Encoding, Tensor]:
        """Encode while the transitions are being chosen from what the tracker has read so far.

        Nothing is replayed for the gradient: backward goes through the pass that sampled. ``choose`` is called
        without gradient, once a step, for the rows still running, longest first; what a policy adds to the tracker is
        cheaply judged once more from ``Encoding.tracker``, for all steps at once.

        Args:
            embeddings: [R, N, E] float, or [U, E] with ``words``; see `forward`.
            lengths: [R] int64.
            choose: Gives the transitions.
            words: [R, N] int64; see `forward`.

        Returns:
            The encoding, and the derivations [R, T] int64.

        Raises:
            ValueError: The machine has no tracker, or shapes do not fit.
            IllegalTransitionError: A chosen transition was not legal.
        """
        if self.tracker is None:
            raise ValueError("sampling reads a tracker, this stack machine was built without one")
        named, given = ("embeddings", embeddings) if words is None else ("words", words)
        if given.dim() != (3 if words is None else 2) or given.shape[:1] != lengths.shape:
            raise ValueError(
                f"{named} must be [R, N{', E' if words is None else ''}] with R = {lengths.shape[0]}, "
                f"got {tuple(given.shape)}"
            )
        order = torch.argsort(lengths, descending=True, stable=True)
        in_order = lengths[order]
        if words is None:
            leaves, places = _real_tokens(embeddings[order], in_order), None
            tokens = torch.arange(leaves.shape[0], device=lengths.device)
        else:
            leaves, places = embeddings, words[order]
            tokens = _real_tokens(places.unsqueeze(2), in_order).squeeze(1)
        n_steps = 2 * given.shape[1] - 1
        chosen = torch.full((n_steps, len(order)), PAD, dtype=torch.int64, device=lengths.device)
        table, tracked = self._track(leaves, in_order, n_steps, _choosing(in_order, tokens, choose, chosen))
        sampled = lockstep.trace(chosen.t(), in_order)
        back = torch.argsort(order)
        layout = lay_out(sampled, "by_step", places, leaves.shape[0])
        trace = Trace(*(field[back] for field in sampled))
        return self._encoding(table, tracked, layout, order, trace), chosen.t()[back]

    def _track(
        self, embeddings: Tensor, lengths: Tensor, n_steps: int, play: Callable[[_StepPass], None]
    ) -> tuple[Tensor, Tensor]:
        """Give the table and the tracker's hidden vectors [R, T, H], rows in falling order of length."""
        assert self.tracker is not None
        tables = _StepPass(self.composition, self.tracker, lengths, embeddings)
        modules = (self.composition, self.tracker)
        named = [{name: p for name, p in m.named_parameters() if p.requires_grad} for m in modules]
        table, flat = _TrackAndCompose.apply(  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
            tables, play, tuple(map(tuple, named)), embeddings, *named[0].values(), *named[1].values()
        )
        running = torch.arange(n_steps, device=lengths.device).unsqueeze(1) < 2 * lengths - 1  # [T, R]
        places = running.flatten().nonzero().squeeze(1)
        tracked = flat.new_zeros(running.numel(), flat.shape[1]).index_copy(0, places, flat)
        return table, tracked.view(n_steps, len(lengths), -1).transpose(0, 1)


def _real_tokens(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Leave padding out: [R, N, E] to [L, E], sentence by sentence."""
    token_mask = torch.arange(vectors.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    real = token_mask.flatten().nonzero().squeeze(1)
    picked: Tensor = _Pick.apply(vectors.flatten(0, 1), real)  # type: ignore[no-untyped-call]  # see `_compose`
    return picked


def _refuse_second_derivatives() -> None:
    """Raise where backward is asked to be differentiable itself: that is when autograd leaves gradients on in it."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "the stack machine's backward is written by hand and has no derivative of its own: second derivatives "
            "through a tree encoder (create_graph=True) are not there; differentiate only once"
        )


class _Pick(torch.autograd.Function):
    """Take rows out of a table, none of them twice: backward writes each gradient where it belongs."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _refuse_second_derivatives()
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, index, grad), None


def _compose(composition: Composition, layout: Layout, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Give the roots' hidden vectors [R, D] and the whole table, from the embeddings of the leaves [U, E]."""
    named = {name: p for name, p in composition.named_parameters() if p.requires_grad}
    roots, table = _ComposeGroups.apply(  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
        composition, layout, tuple(named), torch.is_grad_enabled(), embeddings, *named.values()
    )
    return roots, table


class _Group(NamedTuple):
    """Views into the tables of a pass, for the nodes that are composed together."""

    gathered: Tensor  # [2 m, D] hidden vectors of their children
    children: Children  # the same, and where the rest of their states is
    parents: Tensor  # [m] where backward finds the gradients of their states
    states: Planes  # [m, D] each: their own
    kept: Planes  # what the cell keeps of them


class _Pass:
    """The tables of one forward and backward over a batch of trees.

    Gradients lie by the parent: row ``2 m + side`` of a table holds the gradient of the m-th node's child on that
    side, and the roots' gradients follow, ``2 M + r``. `Layout.parents` tells every token and node where that is.
    Backward overwrites what forward kept and gives it back; before another one, forward has to fill it again.
    """

    def __init__(self, composition: Composition, layout: Layout) -> None:
        self.composition, self.layout = composition, layout
        self.n_leaves, self.n_nodes = layout.n_leaves, layout.children.shape[0]
        self.filled = False

    def forward(self, embeddings: Tensor) -> Planes:
        """Fill the tables, and give those of the states, of new memory: [U + M + 1, D] each, the last row zeros."""
        D, rows = self.composition.hidden_size, self.n_leaves + self.n_nodes
        self.cell: Cell = self.composition.cell(self.n_nodes, embeddings)
        self.children = room(embeddings, self.n_nodes, 2 * D)
        planes = tuple(embeddings.new_empty(rows + 1, D) for _ in range(self.composition.state_multiple))
        for plane in planes:
            plane[rows].zero_()
        self.filled = True
        self.planes, self.groups = planes, self._cut(planes)
        self.cell.leaf(embeddings, tuple(plane[: self.n_leaves] for plane in planes))
        compose, hidden = self.cell.compose, planes[0]
        for gathered, children, _, states, kept in self.groups:
            torch.index_select(hidden, 0, children.pairs, out=gathered)
            compose(children, states, kept)
        return planes

    def _cut(self, planes: Planes) -> list[_Group]:
        """Cut every table into the groups of the layout."""
        sizes, doubled = self.layout.sizes, [2 * size for size in self.layout.sizes]
        own = (plane[self.n_leaves : self.n_leaves + self.n_nodes].split(sizes) for plane in planes)
        parts = zip(
            self.children.view(2 * self.n_nodes, self.cell.size).split(doubled),
            self.children.split(sizes),
            self.layout.children.flatten().split(doubled),
            self.layout.parents[self.layout.n_tokens :].split(sizes),
            zip(*own, strict=True),
            self.cell.groups(sizes),
            strict=True,
        )
        if not sizes:
            return []
        return [
            _Group(gathered, Children(hidden, planes, pairs), parents, states, kept)
            for gathered, hidden, pairs, parents, states, kept in parts
        ]

    def backward(
        self, embeddings: Tensor, grad_roots: Tensor | None, grad_table: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the gradients of embeddings and weights."""
        if not self.filled:
            self.forward(embeddings)
        D, M, U = self.cell.size, self.n_nodes, self.n_leaves
        grads = tuple(room(embeddings, 2 * M + len(self.layout.roots), D) for _ in self.planes)
        for grad in grads:
            grad[2 * M :].zero_()
        if grad_roots is not None:
            grads[0][2 * M :] = grad_roots
        of_nodes = None
        if grad_table is not None:
            of_nodes = grad_table.clone()
            of_nodes[:U].zero_()  # leaves get theirs once, however often they occur
            grads[0][2 * M :].add_(of_nodes.index_select(0, self.layout.roots))
        cut = zip(*(grad[: 2 * M].view(M, 2 * D).split(self.layout.sizes) for grad in grads), strict=True)
        to_children = list(cut) if M else []
        backward = self.cell.compose_backward
        for group, grad_children in zip(reversed(self.groups), reversed(to_children), strict=True):
            _, children, parents, states, kept = group
            backward(children, states, Given(grads, parents), kept, grad_children)
            if of_nodes is not None:
                grad_children[0].add_(of_nodes.index_select(0, children.pairs).view(-1, 2 * D))
        leaves = tuple(self._of_leaves(grad) for grad in grads)
        if grad_table is not None:
            leaves[0].add_(grad_table[:U])
        grad_embeddings, found = self.cell.leaf_backward(
            embeddings, tuple(plane[:U] for plane in self.planes), leaves
        )
        found |= self.cell.weight_gradients(self.children)
        give_back(*grads)
        self.release()
        return grad_embeddings, found

    def release(self) -> None:
        """Give back all tables but those of the states."""
        give_back(self.children)
        self.cell.release()
        del self.children, self.cell, self.groups
        self.filled = False

    def _of_leaves(self, grad: Tensor) -> Tensor:
        """Add up the gradients of the tokens that share a leaf: [U, D]."""
        tokens = self.layout.tokens
        of_tokens = grad.index_select(0, self.layout.parents[: self.layout.n_tokens])
        if tokens is None:
            return of_tokens
        of_leaves = grad.new_zeros(self.n_leaves, grad.shape[1])
        row_adder(grad)(of_leaves, tokens, of_tokens)
        return of_leaves


class _ComposeGroups(torch.autograd.Function):
    """Compose group after group without a tracker. Gives the roots [R, D] and the table [L + M + 1, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        composition: Composition,
        layout: Layout,
        names: tuple[str, ...],
        recorded: bool,
        embeddings: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tables = _Pass(composition, layout)
        planes = tables.forward(embeddings)
        if not (recorded and any(ctx.needs_input_grad)):  # nobody will go backward
            tables.release()
        ctx.tables, ctx.names = tables, names
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeddings, *planes)
        # Not the table itself, which `tables` holds: it would keep its own graph alive.
        return planes[0].index_select(0, layout.roots), planes[0].detach()

    @staticmethod
    def backward(ctx: Any, grad_roots: Tensor | None, grad_table: Tensor | None) -> tuple[Any, ...]:
        _refuse_second_derivatives()
        embeddings, *_ = ctx.saved_tensors  # which raises if the table was changed meanwhile
        embeddings = embeddings.detach()
        tables: _Pass = ctx.tables
        grad_embeddings, found = tables.backward(embeddings, grad_roots, grad_table)
        return None, None, None, None, grad_embeddings, *(found.get(name) for name in ctx.names)


class _StepPass:
    """The tables of one forward and backward by step, with a tracker that feeds the composition.

    Rows are sorted by length, longest first, so that the rows still running are always the first ones. Nodes get
    their table rows in the order in which they are made. One row of zeros more stands for "nothing there".

    Args:
        composition: With a tracker size.
        tracker: Of that size.
        lengths: [R] int64, falling.
        like: [U, E] float. The leaves' embeddings.
    """

    def __init__(self, composition: Composition, tracker: Tracker, lengths: Tensor, like: Tensor) -> None:
        D, H = composition.hidden_size, tracker.hidden_size
        self.n_leaves = like.shape[0]
        self.n_nodes = int(lengths.sum()) - lengths.shape[0]
        longest = 2 * int(lengths[0]) - 1
        numbers = torch.arange(longest, device=lengths.device).unsqueeze(1)
        self.active: list[int] = (2 * lengths - 1 > numbers).sum(1).tolist()
        self.cell: Cell = composition.cell(self.n_nodes, like)
        self.tracker = TrackerCell(tracker, self.active, like)
        self.n_planes = composition.state_multiple
        self.children = like.new_empty(self.n_nodes, 2 * D)
        self.numbers = torch.arange(self.n_leaves + self.n_nodes, device=like.device)
        self.read = like.new_empty(self.n_nodes, H)  # what each node's composition read of the tracker
        self.planes: Planes = ()
        self.steps: list[_Step] = []
        self.made = 0

    def start(self, embeddings: Tensor) -> None:
        """Write the leaves into tables of new memory: [L + M + 1, D] each, the last row zeros."""
        rows = self.n_leaves + self.n_nodes
        self.planes = tuple(embeddings.new_empty(rows + 1, self.cell.size) for _ in range(self.n_planes))
        for plane in self.planes:
            plane[rows].zero_()
        self.cell.leaf(embeddings, tuple(plane[: self.n_leaves] for plane in self.planes))
        self.tracker.start(self.planes[0][: self.n_leaves])
        self.steps, self.made = [], 0

    def look(self, fronts: Tensor, pairs: Tensor) -> Tensor:
        """Let the tracker read, and give its hidden vectors: [a, H].

        Args:
            fronts: [a] int64. Table row at each buffer's front; any that is no leaf's stands for nothing.
            pairs: [2 a] int64. Table rows of each stack's top and second.
        """
        t = len(self.steps)
        self.steps.append(
            _Step(fronts.clamp_max(self.n_leaves), pairs, *_NO_NODES, slice(self.made, self.made))
        )
        return self.tracker.step(t, self.planes[0], self.steps[t].fronts, pairs)

    def reduce(self, rows: Tensor, pairs: Tensor) -> None:
        """Compose: batch rows [m] int64 and the table rows of their nodes' children, [2 m] int64."""
        size = rows.shape[0]
        group = slice(self.made, self.made + size)
        t = len(self.steps) - 1
        self.steps[t] = self.steps[t]._replace(rows=rows, pairs=pairs, group=group)
        self.made += size
        if not size:
            return
        torch.index_select(self.tracker.views[t][-1], 0, rows, out=self.read[group])
        room = self.children[group].view(2 * size, self.cell.size)
        torch.index_select(self.planes[0], 0, pairs, out=room)
        self.cell.compose(*self._views(group, pairs), self.read[group])

    def _views(self, group: slice, pairs: Tensor) -> tuple[Children, Planes, Planes]:
        own = slice(self.n_leaves + group.start, self.n_leaves + group.stop)
        return (
            Children(self.children[group], self.planes, pairs),
            tuple(plane[own] for plane in self.planes),
            tuple(table[group] for table in self.cell.kept),
        )

    def backward(
        self, embeddings: Tensor, planes: Planes, grad_table: Tensor | None, grad_tracked: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Give the gradients of embeddings, of the composition and of the tracker; what was kept is overwritten."""
        self.planes = planes
        D, U = self.cell.size, self.n_leaves
        grads = tuple(torch.zeros_like(plane) for plane in planes)
        if grad_table is not None:
            grads[0].copy_(grad_table)
        grad_hidden = embeddings.new_zeros(self.active[0], self.tracker.size)
        grad_cell = torch.zeros_like(grad_hidden)
        add_rows = row_adder(embeddings)
        for t in reversed(range(len(self.steps))):
            _, tops, rows, pairs, group = self.steps[t]
            active, size = self.active[t], group.stop - group.start
            hidden = grad_hidden[:active]
            if grad_tracked is not None:
                start = self.tracker.starts[t]
                hidden.add_(grad_tracked[start : start + active])
            if size:
                children, states, kept = self._views(group, pairs)
                given = Given(grads, self.numbers[U + group.start : U + group.stop])
                to_children = tuple(torch.empty_like(children.hidden) for _ in grads)
                read = self.cell.compose_backward(
                    children, states, given, kept, to_children, self.read[group]
                )
                assert read is not None
                add_rows(hidden, rows, read)
                for grad, to_child in zip(grads, to_children, strict=True):
                    add_rows(grad, pairs, to_child.view(2 * size, D))
            to_stack = self.tracker.step_backward(t, hidden, grad_cell[:active])
            add_rows(grads[0], tops, to_stack.view(2 * active, D))
        to_leaves, of_tracker = self.tracker.finish([step.fronts for step in self.steps], planes[0][:U])
        leaves = tuple(grad[:U] for grad in grads)
        leaves[0].add_(to_leaves)
        grad_embeddings, of_leaf = self.cell.leaf_backward(
            embeddings, tuple(plane[:U] for plane in planes), leaves
        )
        return grad_embeddings, of_leaf | self.cell.weight_gradients(self.children, self.read), of_tracker


class _Step(NamedTuple):
    """What one step of the lockstep loop read and made."""

    fronts: Tensor  # [a] leaves, U for nothing
    tops: Tensor  # [2 a] table rows of top and second
    rows: Tensor  # [m] batch rows that reduce
    pairs: Tensor  # [2 m] table rows of their nodes' children
    group: slice  # which nodes they make


_NO_NODES = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)


class _TrackAndCompose(torch.autograd.Function):
    """By step, with a tracker that reads the stack before each step and feeds the composition.

    Rows must be sorted by length, longest first. Gives the table, [L + M + 1, D], and the tracker's hidden vectors of
    all running rows, step after step, [S, H].
    """

    @staticmethod
    def forward(
        ctx: Any,
        tables: _StepPass,
        play: Callable[[_StepPass], None],
        names: tuple[tuple[str, ...], tuple[str, ...]],
        embeddings: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tables.start(embeddings)
        play(tables)
        ctx.tables, ctx.names, ctx.spent = tables, names, False
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeddings, *tables.planes)
        table, tables.planes = tables.planes[0], ()
        return table, tables.tracker.hidden.clone()

    @staticmethod
    def backward(ctx: Any, grad_table: Tensor | None, grad_tracked: Tensor | None) -> tuple[Any, ...]:
        _refuse_second_derivatives()
        embeddings, *saved = (tensor.detach() for tensor in ctx.saved_tensors)
        planes = tuple(saved)
        tables: _StepPass = ctx.tables
        if ctx.spent:  # a graph that is kept for several backwards: fill again what the last one overwrote
            steps = tables.steps
            tables.start(embeddings)
            for step in steps:
                tables.look(step.fronts, step.tops)
                tables.reduce(step.rows, step.pairs)
            planes = tables.planes
        ctx.spent = True
        grad_embeddings, of_cell, of_tracker = tables.backward(embeddings, planes, grad_table, grad_tracked)
        tables.planes = ()
        in_cell, in_tracker = ctx.names
        return (
            None,
            None,
            None,
            grad_embeddings,
            *(of_cell.get(name) for name in in_cell),
            *(of_tracker.get(name) for name in in_tracker),
        )


def _replay(layout: Layout, trace: Trace) -> Callable[[_StepPass], None]:
    """Give what takes known derivations step by step; rows must be sorted by length."""
    positions = layout.position.gather(1, trace.tops.clamp_min(0).flatten(1)).view_as(trace.tops)
    positions = torch.where(trace.tops >= 0, positions, layout.position.new_tensor(-1))  # [R, T, 3]
    numbers = torch.arange(trace.tops.shape[1], device=trace.lengths.device).unsqueeze(1)
    made: list[int] = (trace.steps.flatten() == numbers).sum(1).tolist()
    index = layout.children.flatten()

    def play(tables: _StepPass) -> None:
        nothing = tables.n_leaves + tables.n_nodes
        slots = torch.where(positions >= 0, positions, nothing).transpose(0, 1)  # [T, R, 3]
        sizes = made[: len(tables.active)]
        for t, (rows, pairs) in enumerate(
            zip(layout.rows.split(sizes), index.split([2 * size for size in sizes]), strict=True)
        ):
            looked = slots[t, : tables.active[t]]
            tables.look(looked[:, 0], looked[:, 1:].flatten())
            tables.reduce(rows, pairs)

    return play


class _Parsers:
    """The pointers of parsers that are being told what to do; rows are sorted by length, longest first.

    Every step puts one item on the stack, so that items are numbered by the step before which they came: the top of
    the stack before step t is item t, and what lies beneath an item stays the same while it is there.

    Args:
        lengths: [R] int64.
        tokens: [L] int64. Table row of every token, sentence by sentence.
        active: Rows that run at each step.
        nothing: Table row of the zeros.

    Attributes:
        fronts: [a] int64. Table row at each buffer's front, for the rows that take the next step.
        tops: [2 a] int64. Those of each stack's top and second.
        stack_sizes: [a] int64.
        buffer_sizes: [a] int64.
    """

    def __init__(self, lengths: Tensor, tokens: Tensor, active: list[int], nothing: int) -> None:
        rows = len(lengths)
        self.active, self.nothing, self.lengths, self.tokens = [*active, 0], nothing, lengths, tokens
        self.first = lengths.cumsum(0) - lengths
        self.items = lengths.new_full((len(active) + 1, rows), nothing)  # their table rows
        self.beneath = lengths.new_zeros(len(active) + 1, rows)  # number of the item under each
        self.shifted = lengths.new_zeros(rows)
        self.step = 0
        self.kernels = replay_kernels() if lengths.device.type == "cpu" else None
        self.fronts, self.tops = tokens[self.first], lengths.new_full((2 * rows,), nothing)
        self.stack_sizes, self.buffer_sizes = lengths.new_zeros(rows), lengths.clone()

    def take(self, actions: Tensor, node: int) -> tuple[Tensor, Tensor]:
        """Take a step.

        Args:
            actions: [a] int64.
            node: Table row of the next node.

        Returns:
            The rows that REDUCE, [m] int64, and the table rows of their nodes' children, [2 m] int64.
        """
        t, running, following = self.step, *self.active[self.step : self.step + 2]
        self.step += 1
        if self.kernels is not None:
            return self._take_compiled(self.kernels, t, actions, node, running, following)
        top, below, done = self.items[t, :running], self.beneath[t, :running], self.shifted[:running]
        reduces = actions == REDUCE
        rows = reduces.nonzero().squeeze(1)
        pairs = self.tops.view(running, 2).flip(1).index_select(0, rows).flatten()
        made = torch.arange(node, node + len(rows), device=rows.device)
        self.items[t + 1, :running] = self._front(done).index_copy_(0, rows, made)
        under = self.beneath[:, :running].gather(0, below.unsqueeze(0)).squeeze(0)
        self.beneath[t + 1, :running] = torch.where(reduces, under, t)
        done += ~reduces
        done, top, below = (
            self.shifted[:following],
            self.items[t + 1, :following],
            self.beneath[t + 1, :following],
        )
        second = self.items[:, :following].gather(0, below.unsqueeze(0)).squeeze(0)
        self.fronts, self.tops = self._front(done), torch.stack((top, second), dim=1).flatten()
        self.stack_sizes, self.buffer_sizes = 2 * done - (t + 1), self.lengths[:following] - done
        return rows, pairs

    def _take_compiled(
        self, kernels: Kernels, t: int, actions: Tensor, node: int, running: int, following: int
    ) -> tuple[Tensor, Tensor]:
        rows, pairs = self.lengths.new_empty(running), self.lengths.new_empty(2 * running)
        fronts, tops, stacks, buffers = (self.lengths.new_empty(k * following) for k in (1, 2, 1, 1))
        done = kernels.take_step(
            running,
            following,
            t,
            node,
            self.nothing,
            actions.long().contiguous(),
            self.lengths,
            self.first,
            self.tokens,
            self.items,
            self.beneath,
            self.shifted,
            rows,
            pairs,
            fronts,
            tops,
            stacks,
            buffers,
        )
        self.fronts, self.tops, self.stack_sizes, self.buffer_sizes = fronts, tops, stacks, buffers
        return rows[:done], pairs[: 2 * done]

    def _front(self, done: Tensor) -> Tensor:
        """Give the table row of the next token, for rows that shifted so many: [a] int64."""
        left = done < self.lengths[: len(done)]
        upcoming = (self.first[: len(done)] + done).clamp_max(len(self.tokens) - 1)
        return torch.where(left, self.tokens.index_select(0, upcoming), self.nothing)


def _choosing(
    lengths: Tensor, tokens: Tensor, choose: Chooser, chosen: Tensor
) -> Callable[[_StepPass], None]:
    """Give what asks for every transition and writes it to ``chosen``, [T, R]; see `_Parsers`."""

    def play(tables: _StepPass) -> None:
        parsers = _Parsers(lengths, tokens, tables.active, tables.n_leaves + tables.n_nodes)
        for t, active in enumerate(tables.active):
            hidden = tables.look(parsers.fronts, parsers.tops)
            actions = choose(hidden, parsers.stack_sizes, parsers.buffer_sizes)
            chosen[t, :active] = actions
            rows, pairs = parsers.take(actions, tables.n_leaves + tables.made)
            if tables.made + len(rows) > tables.n_nodes:
                return  # an illegal REDUCE, which `lockstep.trace` will name
            tables.reduce(rows, pairs)

    return play


__all__ = ["SCHEDULES", "Chooser", "Encoding", "Layout", "ScheduleName", "StackMachine", "lay_out"]
