"""A step as straight-line code: the relevant nodes of a trace, in passes over the elements.

A pass ends where the next nodes need a sum over a tensor. All passes but the last only read, so an
interrupted step has changed nothing; the last one recomputes what it needs, and stores.
"""
from functools import cached_property

from optimcb.tracing.ir import LEAVES, OPAQUE, PER_ELEMENT, PER_PARAMETER, FreshState, Node, Store
from optimcb.tracing.ops import REDUCTIONS

__all__ = ['IN_MEMORY', 'KNOWN', 'Program', 'Unsupported', 'reachable']


KNOWN = frozenset({*REDUCTIONS, 'total', 'result'}) # computed in an earlier pass
# Values in memory, which kernels load and `by_torch` functions get as arguments
IN_MEMORY = frozenset({'load', 'external', 'result'})


class Unsupported(Exception):
    "A lowering can't do an operation."


def reachable(
    nodes:list[Node], # All nodes
    operands, # Operands to start from
    stop=frozenset() # Operations at which to stop
) -> list[int]:
    "List the indices of nodes that `operands` depend on, without the inputs of operations in `stop`."
    todo, found = [a for a in operands if a >= 0], set()
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            if nodes[i].op not in stop: todo += nodes[i].inputs
    return sorted(found)


def _leaf_order(node):
    "Return the sort key of a leaf: programs with the same columns load them in the same order"
    return node.op, str(node.dtype), node.extent is PER_ELEMENT, str(node.args)


class Program:
    """One step for parameters of any number and size.

    `slots` are the used numbers of the trace, `fresh` the states that the step creates, `new` the names of
    all states that didn't exist before, and `replaced` the operands of the opaque states it replaces. With
    `is_sharded`, sums over a tensor involve other processes, so a phase ends at each. If it `zeroes`, it
    leaves zeros in the gradient. `kernel` has the functions that an engine has built of it.
    """
    kernel = None

    def __init__(self,
        entries, # The trace's nodes
        outputs, # An `Output` for each tensor that changed
        is_sharded:bool=False # Are some parameters sharded over processes?
    ):
        self.is_sharded, self.zeroes, self.zeroing = is_sharded, False, {}
        self.new = frozenset(o.name for o in outputs if o.is_new)
        nodes, started = self._with_fresh_states([Node.of(e) for e in entries], outputs)
        stores, replaced = [], {}
        for o in outputs:
            value = started.get(o.value, o.value)
            if o.extent is OPAQUE: replaced[o.name] = o.value
            elif not _is_load_of(nodes, value, o.name): stores.append(Store(o.name, value, o.dtype, o.extent))
        self._prune(nodes, stores, replaced)
        self._set_key()
        self._set_levels()

    def _with_fresh_states(self, nodes, outputs) -> tuple[list, dict]:
        "Load states with an initial number. Returns the nodes, and new indices by old ones"
        self.fresh, started = {}, {}
        for o in outputs:
            if not o.is_new or o.extent is OPAQUE: continue
            slot = None if o.born is None else ~nodes[o.born].args[0]
            self.fresh[o.name] = FreshState(o.dtype, o.extent, slot)
            if o.born is not None and o.born not in started:
                started[o.born] = len(nodes)
                nodes.append(Node('load', o.dtype, o.extent, (o.name,)))
        return [n.with_operands(lambda a: started.get(a, a)) for n in nodes], started

    def _prune(self, nodes, stores, replaced):
        "Keep the nodes that are read, leaves first, and the slots that they use"
        totals = [i for i, n in enumerate(nodes) if n.op == 'total'] # other parameters may need them
        alive = reachable(nodes, [*(o.value for o in stores), *replaced.values(), *totals])
        leaves = sorted((i for i in alive if nodes[i].op in LEAVES), key=lambda i: _leaf_order(nodes[i]))
        order = leaves + [i for i in alive if nodes[i].op not in LEAVES]
        place, slots = {old: new for new, old in enumerate(order)}, {}
        def moved(a): return place[a] if a >= 0 else ~slots.setdefault(~a, len(slots))
        self.nodes = [nodes[i].with_operands(moved) for i in order]
        self.stores = [o._replace(value=moved(o.value)) for o in stores]
        self.replaced = {k: moved(v) for k, v in replaced.items()}
        self.slots = list(slots)

    def with_zeros(self,
        dtype # Type of the gradient
    ) -> 'Program':
        """The same step, whose last pass, which has read the gradient, stores zeros there.

        A kernel may run it if nothing else is in the gradient's memory."""
        if dtype not in self.zeroing: self.zeroing[dtype] = self._with_zeros(dtype)
        return self.zeroing[dtype]

    def _with_zeros(self, dtype):
        res = object.__new__(Program)
        res.is_sharded, res.zeroes, res.zeroing = self.is_sharded, True, {}
        res.new, res.fresh, res.replaced, res.slots = self.new, self.fresh, self.replaced, self.slots
        res.nodes = [*self.nodes, Node('zero', dtype, PER_PARAMETER, ())]
        res.stores = [*self.stores, Store('.grad', len(self.nodes), dtype, PER_ELEMENT)]
        res._set_key()
        res._set_levels()
        return res

    def _set_key(self): self.key = tuple(self.nodes), tuple(self.stores), tuple(self.replaced.items())

    def _set_levels(self):
        "Count for each node the reductions, totals and calls that must come before it"
        self.levels, asked = [], 0
        for n in self.nodes:
            ends_pass = n.op in REDUCTIONS or n.op in ('total', 'call')
            level = max((self.levels[a] for a in n.inputs), default=0) + ends_pass
            if n.op == 'total':
                asked = level = max(level, asked) # all programs request totals in the order of their rounds
            self.levels.append(level)
        self.last = max(self.levels, default=0)

    def at(self, level, nodes) -> list[int]:
        "Select the reductions, totals or calls among `nodes` that can be computed at `level`."
        return [i for i in nodes if self.levels[i] == level + 1]

    def needed(self, operands) -> list[int]:
        "List the indices of nodes that `operands` depend on within a pass; reductions are known."
        return reachable(self.nodes, operands, KNOWN)

    def column(self, i) -> str|int:
        "Return the memory column of node `i`."
        return f'.{i}' if self.nodes[i].op == 'result' else self.nodes[i].args[0]

    def stores_at(self, level) -> list[Store]:
        "List the stores of a level: outputs at the last, arguments of `by_torch` functions before it."
        if level == self.last: return self.stores
        read = dict.fromkeys(o for i in self.at(level, self.calls) for o in self.nodes[i].inputs)
        computed = [(o, self.nodes[o]) for o in read if self.nodes[o].op not in IN_MEMORY]
        return [Store(f'.{o}', o, n.result_dtype, n.extent) for o, n in computed]

    def _stores_by_level(self) -> list[list[Store]]: return [self.stores_at(k) for k in range(self.last + 1)]

    def _indices(self, *ops) -> list[int]: return [i for i, n in enumerate(self.nodes) if n.op in ops]

    @cached_property
    def columns(self) -> list[str]:
        "The memory columns: parameter `.p`, gradient `.grad`, state, indices of the trace's real tensors."
        read = [i for op in ('load', 'external', 'result') for i in self._indices(op)]
        names = [self.column(i) for i in read if self.nodes[i].extent is not OPAQUE]
        for stores in self._stores_by_level(): names += [s.name for s in stores]
        return list(dict.fromkeys(names))

    @cached_property
    def moved(self) -> int:
        "The bytes per element that a step reads and writes; each pass reads again."
        total = 0
        for k, stores in enumerate(self._stores_by_level()):
            stores = [s for s in stores if s.extent is PER_ELEMENT]
            wanted = [self.nodes[i].args[0] for i in self.at(k, self.sums)] + [s.value for s in stores]
            needed = {self.nodes[i] for i in self.needed(wanted)}
            loads = [n for n in needed if n.op in IN_MEMORY and n.extent is PER_ELEMENT]
            total += sum(o.dtype.itemsize for o in (*loads, *stores))
        return total

    @cached_property
    def sums(self) -> list[int]:
        "The nodes that reduce a tensor."
        return self._indices(*REDUCTIONS)

    @cached_property
    def totals(self) -> list[int]:
        "The nodes that sum over all parameters."
        return self._indices('total')

    @cached_property
    def calls(self) -> list[int]:
        "The nodes that call a `by_torch` function."
        return self._indices('call')

    @cached_property
    def calls_by_phase(self) -> list[list[int]]:
        "The calls at the end of each phase."
        return [self.at(levels[-1], self.calls) for levels in self.phases]

    @cached_property
    def results(self) -> dict[int, list[int]]:
        "The result nodes of each call."
        return {k: [i for i in self._indices('result') if self.nodes[i].args[0] == k] for k in self.calls}

    @cached_property
    def rounds(self) -> list[tuple[int, int]]:
        "The round of each total, and the level at which it is requested."
        return [(self.nodes[i].args[1], self.levels[i] - 1) for i in self.totals]

    @cached_property
    def rounds_by_phase(self) -> list[tuple]:
        "The rounds of the totals at the end of each phase."
        def at(last): return tuple(sorted({r for r, level in self.rounds if level == last}))
        return [at(levels[-1]) for levels in self.phases]

    @cached_property
    def phases(self) -> list[list[int]]:
        "The levels, split where the host must act: for totals, sums over processes, or `by_torch` functions."
        res = [[]]
        for level in range(self.last + 1):
            res[-1].append(level)
            waits = self.at(level, self.totals) or self.at(level, self.calls)
            if waits or self.is_sharded and self.at(level, self.sums): res.append([])
        return res

    @cached_property
    def passes(self) -> list[list[tuple[str, str]]]:
        "The functions of each phase in order, each with its loop: over 'chunks' of elements or 'tensors'."
        res = []
        for levels in self.phases:
            res.append([])
            for k in levels:
                sums, extents = self.at(k, self.sums), {s.extent for s in self.stores_at(k)}
                if sums or PER_ELEMENT in extents: res[-1].append((f'chunk{k}', 'chunks'))
                if sums: res[-1].append((f'join{k}', 'tensors'))
                if self.at(k, self.totals) or PER_PARAMETER in extents:
                    res[-1].append((f'tensor{k}', 'tensors'))
        return res


def _is_load_of(nodes, value, name) -> bool:
    "Is the operand the unchanged value of the column?"
    return value >= 0 and nodes[value].op == 'load' and nodes[value].args == (name,)
