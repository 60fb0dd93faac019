"The foreach engine: each operation of a program as one call of torch for a list of tensors."
import torch

from optimcb._compat.dtensors import unsharded
from optimcb.engines import arena, launch
from optimcb.tracing.ir import LEAVES, PER_ELEMENT
from optimcb.tracing.ops import OPS, REDUCTIONS, of_nothing

__all__ = ['Launch']


# operations whose list function in torch takes a number instead of a list
NUMBER_AT = dict(add_alpha=2, sub_alpha=2, addcmul=3, addcdiv=3)


class Launch(launch.Launch):
    "Parameters whose programs have the same key, and a step of them."
    def __init__(self,
        members:list, # `(bucket, program)`: programs with the same key
        at:list, # For each member, the index of its first parameter in the plan
        plan # Plan, which knows the addresses of parameters and state
    ):
        super().__init__(members, at, plan)
        p = self.program
        self.read = [n.operands if n.op not in LEAVES else () for n in p.nodes]
        order = [] # in order of computation
        for levels, calls in zip(p.phases, p.calls_by_phase):
            order += [k for k, n in enumerate(p.nodes) if p.levels[k] in levels and n.op != 'call']
            order += calls
        self.last_use = {a: k for k in order for a in self.read[k] if a >= 0}
        stored = *(s.value for s in p.stores), *p.replaced.values()
        for a in (*stored, *(p.nodes[i].args[0] for i in p.totals)):
            self.last_use.pop(a, None) # needed until the end

    def start(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ):
        "Set this step's gradients and numbers."
        self.made = [arena.new_states(a, program.fresh, r.slots)
                     for (a, program), r in zip(self.members, recordings)]
        self.known = []
        for (a, program), places, r, made in zip(self.members, self.slices, recordings, self.made):
            lists = {'.p': a.params, '.grad': plan.grads[places], **a.tensors, **made}
            self.known.append((lists, [r.slots[k] for k in program.slots], r.externals, {}))

    def phase(self, i) -> dict:
        "Run a phase; return the sums of the values that it yields, by round."
        p, res = self.program, {}
        known = [(a, *o) for (a, _), o in zip(self.members, self.known)]
        # one collective call for all of them
        for members in [known] if self.sharding else [[o] for o in known]:
            for k, n in enumerate(p.nodes):
                if p.levels[k] not in p.phases[i] or n.op in ('total', 'call', 'result'): continue
                for *o, values in members: values[k] = self._value(n, *o, values)
                if self.sharding and n.op in REDUCTIONS:
                    self._gather_values(k, [values for *_, values in members])
                for *_, values in members: self._let_go(k, values)
        for a, lists, slots, _, values in known:
            if p.last in p.phases[i]: self._store(a, lists, slots, values)
            for j, (round, level) in enumerate(p.rounds):
                if level != p.phases[i][-1]: continue
                x = p.nodes[p.totals[j]].args[0]
                x = values[x] if x >= 0 else [_number(slots[~x], torch.float64, a.example)]*len(a.params)
                res[round] = res.get(round, 0) + torch.stack([o.double() for o in x]).sum()
        return res

    def _let_go(self, k, values):
        "Drop values that no node after `k` needs"
        for arg in self.read[k]:
            if self.last_use.get(arg) == k: values.pop(arg, None)

    def call(self, i):
        "Call the functions that phase `i` ends with, and forget what only they needed."
        super().call(i)
        for k in self.program.calls_by_phase[i]:
            for *_, values in self.known: self._let_go(k, values)

    def _lists(self, j, o):
        "List operand `o` for each parameter of member `j`"
        lists, slots, _, values = self.known[j]
        if o < 0: return slots[~o]
        n, x = self.program.nodes[o], values[o] if o in values else lists[self.program.nodes[o].args[0]]
        params = self.members[j][0].params
        each = n.extent is PER_ELEMENT
        return [t.expand(p.shape) if each and t.shape != p.shape else t for t, p in zip(x, params)]

    def _note_results(self, j, made): self.known[j][-1].update(made)

    def _gather_values(self, k, members):
        "Reduce the values of node `k` over all processes"
        table = torch.stack([x.double() for values in members for x in values[k]])[:, None]
        self._gather(table, [self.program.nodes[k].op])
        done = iter(table[:, 0].to(members[0][k][0].dtype))
        for values in members: values[k] = [next(done) for _ in values[k]]

    def _value(self, n, a, lists, slots, externals, values):
        "List the result of node `n` for each parameter"
        if n.op == 'load': return lists[n.args[0]]
        if n.op == 'external': return [externals[n.args[0]].detach().to(a.example.device)]*len(a.params)
        if n.op == 'numel':
            return [_number(unsharded(p).numel(), n.dtype, p) for p in a.params]
        args = [values[o] if o >= 0 else slots[~o] for o in n.operands]
        if n.op in REDUCTIONS:
            given = args[0]
            if not isinstance(given, list):
                given = [torch.full_like(p, given, dtype=n.dtype) for p in a.params]
            expanded = (x if x.shape == p.shape else x.expand(p.shape) for x, p in zip(given, a.params))
            return [_reduced(n.op, x) for x in expanded]
        op = OPS[n.op]
        if n.op == 'cast':
            if not isinstance(args[0], list):
                def full(p):
                    shape = p.shape if n.extent is PER_ELEMENT else ()
                    return torch.full(shape, args[0], dtype=n.dtype, device=p.device)
                return list(map(full, a.params))
            return [x.to(n.dtype) for x in args[0]]
        each = [o >= 0 and self.program.nodes[o].extent is PER_ELEMENT for o in n.operands]
        numbers = args[NUMBER_AT.get(n.op, len(args)):]
        can = op.foreach and each[0] and not any(isinstance(x, list) for x in numbers)
        if can and all(e or not isinstance(x, list) for e, x in zip(each, args)):
            return list(op.foreach(*args))
        if not any(isinstance(x, list) for x in args):
            args[0] = [_number(args[0], n.dtype, p) for p in a.params]
        return [op.run(*row) for row in zip(*(x if isinstance(x, list) else [x]*len(a.params) for x in args))]

    def _store(self, a, lists, slots, values):
        loaded = {id(t) for ts in lists.values() for t in ts}
        new = {s.name: values[s.value] if s.value >= 0 else slots[~s.value] for s in self.program.stores}
        def own(t): return t.clone() if id(t) in loaded else t
        new = {k: list(map(own, v)) if isinstance(v, list) else v for k, v in new.items()}
        for name, v in new.items():
            for i, t in enumerate(lists[name]): t.data.copy_(v[i]) if isinstance(v, list) else t.data.fill_(v)

    def take(self, totals):
        "Receive the totals over all parameters, by round."
        for j, (round, _) in enumerate(self.program.rounds):
            if round not in totals: continue
            k = self.program.totals[j]
            for (a, _), (*_, values) in zip(self.members, self.known):
                values[k] = [totals[round].to(a.example.device, self.program.nodes[k].dtype)]*len(a.params)

    def finish(self):
        "Put new state into the parameters' state."
        super().finish()
        self.known = self.made = None


def _number(x, dtype, like):
    "A number on a device, which doesn't wait for it, as it would for a number that is sent"
    return torch.full((), x, dtype=dtype, device=like.device)


def _reduced(op, x):
    "Reduce a tensor to one number"
    if x.numel(): return REDUCTIONS[op].run(x)
    return torch.full((), of_nothing(op, x.dtype), dtype=x.dtype, device=x.device)
