"""One step as straight-line code: what a trace recorded, without what nobody reads, in passes over the elements.

A pass ends where a sum over a tensor is needed before one can go on. Passes before the last only read, so that an
interrupted step has changed nothing; the last one computes again what it needs and stores.
"""
from functools import cached_property
from typing import NamedTuple

import torch

from optimcb.tracing.ops import OPS, REDUCTIONS

__all__ = ['KNOWN', 'LEAVES', 'Node', 'Program', 'Store', 'Unsupported', 'inputs', 'reachable']


LEAVES = frozenset({'load', 'external', 'numel'})


class Unsupported(Exception):
    "A lowering can't do an operation."


class Node(NamedTuple):
    "One operation. `args` are indices of nodes, or `~k` for the number in slot `k`; a leaf has its name there."
    op: str
    dtype: torch.dtype # The type that it computes in
    each: bool|None # One value per element, or one per parameter? None: a tensor of another shape, or a call
    args: tuple

    @property
    def gives(self) -> torch.dtype:
        "Type of the result."
        return torch.bool if self.op in OPS and OPS[self.op].gives == 'bool' else self.dtype


class Store(NamedTuple):
    "What is written back to memory."
    name: str # `p`, or a state
    value: int # Operand
    dtype: torch.dtype
    each: bool # One value per element, or one per parameter?


KNOWN = frozenset({*REDUCTIONS, 'total', 'result'}) # worked out in an earlier pass
IN_MEMORY = frozenset({'load', 'external', 'result'}) # what a kernel loads, and a function by torch is handed as it is


def inputs(
    n:Node # A node
) -> list[int]:
    "Indices of the nodes that `n` reads."
    return [] if n.op in LEAVES else [a for a in operands(n) if a >= 0]


def operands(
    n:Node # A node
) -> tuple:
    "The operands among the `args` of `n`: the last one of a total is the number of its round, of a call what is called, of a result which one it is."
    return n.args[:-1] if n.op in ('total', 'call', 'result') else n.args


def reachable(
    nodes:list[Node], # All nodes
    operands, # Where to start from
    stop=frozenset() # Operations at which to stop
) -> list[int]:
    "Indices of the nodes that `operands` depend on, in order; not of what those in `stop` depend on."
    todo, found = [a for a in operands if a >= 0], set()
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            if nodes[i].op not in stop: todo += inputs(nodes[i])
    return sorted(found)


def _mapped(n, f):
    "`n` with `f` of its operands"
    return n if n.op in LEAVES else n._replace(args=(*map(f, operands(n)), *n.args[len(operands(n)):]))


class Program:
    """What one step does, for parameters of any number and size.

    `slots` tells which of the trace's numbers are used, `fresh` the states that the step makes and the slot of what
    they start from, None if they are only written. `handed` are the states of other shapes that it replaces, and the nodes that
    they are then; `new` the names of all states that weren't there. `is_spread` tells that sums over a tensor need other processes: a phase ends
    where one is made.
    """
    def __init__(self,
        nodes, # The trace's
        outputs, # `(name, operand, dtype, each, is it new?, node that filled it with a number at first)` of each tensor that changed
        is_spread:bool=False # Do other processes have parts of some parameters?
    ):
        self.is_spread = is_spread
        nodes, renamed, self.fresh = [Node(n[0], n[1], n[2], n[3:]) for n in nodes], {}, {}
        self.new = frozenset(o[0] for o in outputs if o[4])
        for name, _, dtype, each, is_new, born in outputs:
            if not is_new or each is None: continue
            self.fresh[name] = dtype, each, None if born is None else ~nodes[born].args[0]
            if born is not None and born not in renamed: # a state that starts from a number is read like one that was there
                renamed[born] = len(nodes)
                nodes.append(Node('load', dtype, each, (name,)))
        nodes = [_mapped(n, lambda a: renamed.get(a, a)) for n in nodes]
        stores = [Store(o[0], renamed.get(o[1], o[1]), o[2], o[3]) for o in outputs if o[3] is not None]
        handed = {o[0]: o[1] for o in outputs if o[3] is None}
        stores = [o for o in stores if o.value < 0 or nodes[o.value][0::3] != ('load', (o.name,))]
        yielded = [i for i, n in enumerate(nodes) if n.op == 'total'] # others may need what this one doesn't read itself
        alive = reachable(nodes, [*(o.value for o in stores), *handed.values(), *yielded])
        order = sorted((i for i in alive if nodes[i].op in LEAVES), key=lambda i: str(nodes[i])) + [i for i in alive if nodes[i].op not in LEAVES]
        place, slots = {old: new for new, old in enumerate(order)}, {}
        def moved(a): return place[a] if a >= 0 else ~slots.setdefault(~a, len(slots))
        self.nodes = [_mapped(nodes[i], moved) for i in order]
        self.stores = [o._replace(value=moved(o.value)) for o in stores]
        self.handed = {k: moved(v) for k, v in handed.items()}
        self.key = tuple(self.nodes), tuple(self.stores), tuple(self.handed.items())
        self.slots = list(slots)
        self.levels, asked = [], 0
        for n in self.nodes:
            level = max((self.levels[a] for a in inputs(n)), default=0) + (n.op in REDUCTIONS or n.op in ('total', 'call'))
            if n.op == 'total': asked = level = max(level, asked) # totals are asked for in the order of their rounds, by all
            self.levels.append(level)
        self.last = max(self.levels, default=0)

    def at(self, level, nodes) -> list[int]:
        "Those of `nodes`, sums, totals or calls, that are worked out from what is known at `level`."
        return [i for i in nodes if self.levels[i] == level + 1]

    def needed(self, operands) -> list[int]:
        "Indices of the nodes that `operands` depend on within a pass, in order: sums are known."
        return reachable(self.nodes, operands, KNOWN)

    def column(self, i) -> str|int:
        "Where node `i` lies in memory: its column."
        return f'.{i}' if self.nodes[i].op == 'result' else self.nodes[i].args[0]

    def stores_at(self, level) -> list[Store]:
        "What the kernels of a level store: at the last one, what the step is for; before, what functions by torch are handed."
        if level == self.last: return self.stores
        wanted = dict.fromkeys(o for i in self.at(level, self.calls) for o in inputs(self.nodes[i]) if self.nodes[o].op not in IN_MEMORY)
        return [Store(f'.{o}', o, self.nodes[o].gives, self.nodes[o].each) for o in wanted]

    def _leaves(self, op): return [n for n in self.nodes if n.op == op]

    @cached_property
    def columns(self) -> list[str]:
        "Names of what lies in memory: the parameter `.p`, its gradient `.grad`, state, and indices of the trace's real tensors."
        lying = [self.column(i) for op in ('load', 'external', 'result') for i, n in enumerate(self.nodes) if n.op == op and n.each is not None]
        return list(dict.fromkeys([*lying, *(o.name for k in range(self.last + 1) for o in self.stores_at(k))]))

    @cached_property
    def moved(self) -> int:
        "Bytes that a step reads and writes for each element: each pass reads anew."
        total = 0
        for k in range(self.last + 1):
            stores = [s for s in self.stores_at(k) if s.each]
            wanted = [self.nodes[i].args[0] for i in self.at(k, self.sums)] + [s.value for s in stores]
            loads = {n for n in (self.nodes[i] for i in self.needed(wanted)) if n.op in IN_MEMORY and n.each}
            total += sum(n.dtype.itemsize for n in loads) + sum(s.dtype.itemsize for s in stores)
        return total

    @cached_property
    def sums(self) -> list[int]:
        "Nodes that reduce a tensor."
        return [i for i, n in enumerate(self.nodes) if n.op in REDUCTIONS]

    @cached_property
    def totals(self) -> list[int]:
        "Nodes that sum over all parameters."
        return [i for i, n in enumerate(self.nodes) if n.op == 'total']

    @cached_property
    def calls(self) -> list[int]:
        "Nodes for which torch calls a function."
        return [i for i, n in enumerate(self.nodes) if n.op == 'call']

    @cached_property
    def calls_by_phase(self) -> list[list[int]]:
        "The calls that each phase ends with."
        return [self.at(ks[-1], self.calls) for ks in self.phases]

    @cached_property
    def results(self) -> dict[int, list[int]]:
        "Of each call the nodes that are its results."
        return {k: [i for i, n in enumerate(self.nodes) if n.op == 'result' and n.args[0] == k] for k in self.calls}

    @cached_property
    def rounds(self) -> list[tuple[int, int]]:
        "Of each total its round, and the level at which it is asked for."
        return [(self.nodes[i].args[1], self.levels[i] - 1) for i in self.totals]

    @cached_property
    def rounds_by_phase(self) -> list[tuple]:
        "The rounds of the totals that each phase ends with."
        return [tuple(sorted({r for r, level in self.rounds if level == ks[-1]})) for ks in self.phases]

    @cached_property
    def phases(self) -> list[list[int]]:
        "The levels, cut where the host is needed before one can go on: for a total over all parameters, other processes' sums, or a function by torch."
        res = [[]]
        for level in range(self.last + 1):
            res[-1].append(level)
            if self.at(level, self.totals) or self.at(level, self.calls) or self.is_spread and self.at(level, self.sums): res.append([])
        return res

    @cached_property
    def passes(self) -> list[list[tuple[str, str]]]:
        "Of each phase its functions, one after the other, and what each goes through: 'chunks' of elements or 'tensors'."
        res = []
        for levels in self.phases:
            res.append([])
            for k in levels:
                sums, stores = self.at(k, self.sums), {s.each for s in self.stores_at(k)}
                if sums or True in stores: res[-1].append((f'chunk{k}', 'chunks'))
                if sums: res[-1].append((f'join{k}', 'tensors'))
                if self.at(k, self.totals) or False in stores: res[-1].append((f'tensor{k}', 'tensors'))
        return res
