"""Launches: run a program on all parameters of its buckets, in phases; and the tables of addresses that
kernels read."""
from collections import Counter
from contextlib import nullcontext
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from optimcb._compat.dtensors import columns_of, put_columns, sharding_of
from optimcb.engines import arena
from optimcb.engines.batches import batches, call_batch
from optimcb.tracing.bucket import is_plain
from optimcb.tracing.ir import OPAQUE, PER_ELEMENT
from optimcb.tracing.opaque import OutputMismatch, listed
from optimcb.tracing.ops import REDUCTIONS

__all__ = ['KernelLaunch', 'Launch', 'run_to_last_phase', 'store']


class Launch:
    """A step of parameters whose programs have the same key.

    One that `can_repeat` has a method `repeat`, for steps like it, with other numbers."""
    can_repeat = False

    def __init__(self,
        members:list, # `(bucket, program)`: programs with the same key
        at:list, # For each member, the index of its first parameter in the plan
        plan # Plan, which knows the addresses of parameters and state
    ):
        self.members, self.program = members, members[0][1]
        self.slices = [slice(i, i + len(a.places)) for i, (a, _) in zip(at, members)]
        # of each parameter, its index in the plan's lists, and its place among all of the optimizer's
        self.indices = np.concatenate([np.arange(o.start, o.stop) for o in self.slices])
        self.places = plan.order[self.indices]
        self.sharding = sharding_of(members[0][0].example)
        self.in_order = None # the order of parameters in the optimizer, on the device, from the first use on

    def _gather(self, table, ops):
        """Reduce `table`, a row for each tensor and a column for each reduction, over all processes, without
        waiting for a GPU"""
        # the order of parameters in the optimizer is the same in all processes
        if self.in_order is None:
            self.in_order = _moved(torch.from_numpy(np.argsort(self.places)), table.device)
        in_order = table.index_select(0, self.in_order)
        self.sharding.reduce(in_order, [REDUCTIONS[op].across for op in ops])
        table.index_copy_(0, self.in_order, in_order)

    def call(self, i):
        """Call the functions at the end of phase `i`: once for parameters of the same shapes, if a function
        takes batches, else for each parameter."""
        with self._here():
            for k in self.program.calls_by_phase[i]:
                made = [{o: [None]*len(a.params) for o in self.program.results[k]} for a, _ in self.members]
                for j, t, results in self._called(k):
                    for o, x in results.items(): made[j][o][t] = x
                for j, o in enumerate(made): self._note_results(j, o)

    def _here(self): return nullcontext()

    def _called(self, k):
        "Yield, for each parameter, its member, its index there, and what call `k` returns for it, by node"
        nodes, places, rows = self.program.nodes, [], []
        call, operands = nodes[k].args[-1], nodes[k].operands
        for j, (a, _) in enumerate(self.members):
            given = [self._lists(j, o) for o in operands]
            places += [(j, t) for t in range(len(a.params))]
            rows += [[x[t] if isinstance(x, list) else x for x in given] for t in range(len(a.params))]
        varies = [o >= 0 and nodes[o].op != 'external' for o in operands]
        for batch in batches(call, rows, varies):
            params = [self.members[j][0].params[t] for j, t in (places[i] for i in batch)]
            results = self._results(k, params, [rows[i] for i in batch], varies)
            yield from ((*places[i], res) for i, res in zip(batch, results))

    def _results(self, k, params, rows, varies) -> list[dict]:
        "Run call `k` for a batch; return the results of each parameter, by node"
        call, alone = self.program.nodes[k].args[-1], len(params) == 1
        outs = [listed(call(rows[0]))] if alone else call_batch(call, rows, varies)
        return [self._as_inferred(k, *o, alone) for o in zip(params, rows, outs)]

    def _as_inferred(self, k, p, given, out, alone) -> dict:
        """Return the results of call `k` for parameter `p`, by node, checked against the inferred outputs.

        Each gets its own memory: results of a batch are slices of a stack, and results may become state."""
        nodes, call, res = self.program.nodes, self.program.nodes[k].args[-1], {}
        taken = {_memory(x) for x in given if isinstance(x, Tensor)}
        for o in self.program.results[k]:
            n, x = nodes[o], out[nodes[o].args[1]] if nodes[o].args[1] < len(out) else None
            if not isinstance(x, Tensor) or not is_plain(x := x.resolve_neg()):
                raise OutputMismatch(f"`{call.name}` returns {type(x).__name__} instead of a tensor.")
            expected = p.shape if n.extent is PER_ELEMENT else (), n.dtype, p.device
            if n.extent is not OPAQUE and (x.shape, x.dtype, x.device) != expected:
                raise OutputMismatch(f"`{call.name}` returns a tensor of shape {tuple(x.shape)} "
                                     f"and of {x.dtype} on {x.device}, which differs from the inferred "
                                     "output.")
            is_given = n.extent is OPAQUE and any(x is y for y in given)
            if _memory(x) in taken and not is_given or n.extent is OPAQUE and not alone: x = x.clone()
            taken.add(_memory(x))
            if alone: x = x.detach()
            if n.extent is PER_ELEMENT and x.stride() != p.stride():
                x = torch.empty_strided(p.shape, p.stride(), dtype=x.dtype, device=x.device).copy_(x)
            res[o] = x
        return res

    def finish(self):
        "Put new state into the parameters' state."
        for (a, _), made in zip(self.members, self.made):
            if made: arena.hand_out(a, made)
        if self.program.replaced: self._store_opaque()

    def _store_opaque(self):
        "Store opaque state, which functions returned"
        for j, (a, _) in enumerate(self.members):
            new = {name: self._lists(j, o) for name, o in self.program.replaced.items()}
            for t, s in enumerate(a.states):
                for name, tensors in new.items():
                    s[name] = None
                    known = {_memory(v) for v in s.values() if isinstance(v, Tensor)}
                    s[name] = tensors[t].clone() if _memory(tensors[t]) in known else tensors[t]
            expected = {k.name: (k.dtype, k.extent.shape) for k in a.kinds}
            same = all((s[name].dtype, s[name].shape) == expected.get(name) for s in a.states for name in new)
            # if they differ, the plan finds a change in the next step
            for name in new if same else (): a.note_tensors(name, [s[name] for s in a.states])


class KernelLaunch(Launch):
    """A launch of kernels.

    `memory` has a row of addresses for each parameter and a column for each of the program's columns,
    `numbers` a row for each member and a column for each number of the program. A subclass creates both, then
    calls `_place_all`."""
    def __init__(self,
        members:list, # `(bucket, program)`: programs with the same key
        at:list, # For each member, the index of its first parameter in the plan
        plan # Plan, which knows the addresses of parameters and state
    ):
        super().__init__(members, at, plan)
        self.columns = {name: j for j, name in enumerate(self.program.columns)}
        counts = [len(a.places) for a, _ in members]
        self.rows, self.member = np.cumsum([0, *counts]), np.repeat(np.arange(len(members)), counts)
        self.grads = None # the gradients' addresses in the table

    def _place_all(self, plan):
        "Note the addresses of parameters and existing state"
        for name, addresses in plan.memory.addresses.items():
            if name in self.columns: self.memory[:, self.columns[name]] = addresses[self.places]

    def _place(self, i, lists):
        "Note the addresses of member `i`'s tensors, by column"
        for name, tensors in lists.items():
            if name not in self.columns: continue
            rows = slice(self.rows[i], self.rows[i+1])
            self.memory[rows, self.columns[name]] = [t.data_ptr() for t in tensors]

    def _fill(self, recordings, plan, grads=None):
        "Set this step's numbers, and the addresses of its gradients; default: the plan's"
        self.numbers[:] = [[r.slots[k] for k in program.slots]
                           for (_, program), r in zip(self.members, recordings)]
        grads = plan.grad_ptrs if grads is None else grads
        if grads is not self.grads: self._place_grads(grads)
        self.made, self.held = [{} for _ in self.members], {}
        for i, ((a, program), r) in enumerate(zip(self.members, recordings)):
            if program.fresh:
                self.made[i] = arena.new_states(a, program.fresh, r.slots)
                self._place(i, self.made[i])
            if r.externals:
                self.held[i] = [_moved(o.detach(), a.example.device) for o in r.externals]
                self._place(i, {k: [o]*len(a.places) for k, o in enumerate(self.held[i])})
        if self.program.calls: self._prepare(recordings, plan)

    def _place_grads(self, grads):
        "Note the addresses of the gradients"
        if '.grad' in self.columns: self.memory[:, self.columns['.grad']] = grads[self.indices]
        self.grads = grads

    # Functions by torch

    def _prepare(self, recordings, plan):
        "Note the possible arguments of functions by torch"
        self.loads = [{'.p': a.params, '.grad': plan.grads[places], **a.tensors, **made}
                      for (a, _), places, made in zip(self.members, self.slices, self.made)]
        self.slots = [[r.slots[k] for k in program.slots]
                      for (_, program), r in zip(self.members, recordings)]
        self.between = [{} for _ in self.members] # by node: their arguments and results
        self._make_room(0)

    def _make_room(self, i):
        "Allocate memory for the values that phase `i` stores for them"
        p = self.program
        for j, (a, _) in enumerate(self.members if i + 1 < len(p.phases) else ()):
            room = {s.name: [_room_for(s, q) for q in a.params] for s in p.stores_at(p.phases[i][-1])}
            self.between[j].update({int(name[1:]): tensors for name, tensors in room.items()})
            self._place(j, room)

    def _lists(self, j, o):
        "List operand `o` of the parameters of member `j`; a number is the same for all"
        if o < 0: return self.slots[j][~o]
        n = self.program.nodes[o]
        if o in self.between[j]: return self.between[j][o]
        if n.op != 'external': return self.loads[j][n.args[0]]
        return [self.held[j][n.args[0]]]*len(self.members[j][0].params)

    def _note_results(self, j, made):
        self.between[j].update(made)
        self._place(j, {self.program.column(o): tensors for o, tensors in made.items()})

    def call(self, i):
        "Call the functions at the end of phase `i`, and allocate memory for those of the next one."
        super().call(i)
        p = self.program
        for o in {o for k in p.calls_by_phase[i] for o in p.nodes[k].inputs}: # needed by these calls only
            for between in self.between if p.nodes[o].op != 'result' else (): between.pop(o, None)
        self._make_room(i + 1)

    def finish(self):
        "Put new state into the parameters' state."
        super().finish()
        if self.program.calls: self.loads = self.between = self.slots = None

    def _gather_sums(self, i, table):
        "Reduce the columns of phase `i` in `table`, which has all sums, over all processes"
        p = self.program
        sums = [j for j, k in enumerate(p.sums) if p.levels[k] - 1 in p.phases[i]]
        if not sums: return
        columns = columns_of(table, sums)
        self._gather(columns, [p.nodes[p.sums[j]].op for j in sums])
        put_columns(table, sums, columns)

    def _yielded(self, i) -> dict:
        "Return the values that phase `i` yielded, summed over the parameters, by round"
        p = self.program
        now = p.phases[i][-1]
        return {round: self.yields[:, j].sum() for j, (round, level) in enumerate(p.rounds) if level == now}


def _room_for(store, p):
    "Allocate a tensor for a value that a program stores for parameter `p`"
    shape, strides = (p.shape, p.stride()) if store.extent is PER_ELEMENT else ((), ())
    return torch.empty_strided(shape, strides, dtype=store.dtype, device=p.device)


def run_to_last_phase(
    launches:list # All launches of a step
) -> None:
    """Run all phases of each launch except the last one, which stores the results.

    A launch continues when the totals that it requested are known. The total of a round is known once all
    launches of that round have yielded their shares."""
    if all(len(o.program.phases) == 1 for o in launches): return
    done, shares, known = [0 for _ in launches], {}, set()
    # number of launches that request the total of each round
    asked = Counter(round for o in launches for round in {r for r, _ in o.program.rounds})
    while any(i + 1 < len(o.program.phases) for i, o in zip(done, launches)):
        for j, o in enumerate(launches):
            while done[j] + 1 < len(o.program.phases) and _knows(o, done[j], known):
                for round, x in o.phase(done[j]).items(): shares.setdefault(round, []).append(x)
                if o.program.calls: o.call(done[j])
                done[j] += 1
        complete = [round for round, xs in shares.items() if round not in known and len(xs) == asked[round]]
        totals = {round: reduce(_added, shares[round]) for round in complete}
        known.update(totals)
        for o in launches: o.take(totals)


def _knows(launch, phase, known) -> bool:
    "Are all totals known that a launch requested before this phase?"
    return known.issuperset(r for rounds in launch.program.rounds_by_phase[:phase] for r in rounds)


def _added(a, b):
    "Add two shares, on the device of the first"
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)): return a + b
    return a + b.to(a.device, non_blocking=True)


def store(
    launches:list # All launches of a step
) -> None:
    "Run the last phase of each launch, which stores the results."
    for o in launches: o.phase(len(o.program.phases) - 1)
    for o in launches: o.finish()


def _memory(x) -> int: return x.untyped_storage().data_ptr()


def _moved(x, device):
    "Move a number to a device without synchronizing"
    return x.pin_memory().to(device, non_blocking=True) if x.is_cpu and device.type != 'cpu' else x.to(device)
