"What the engines that run a program have in common: whose step it is, and the tables that a kernel finds their memory by."
import numpy as np
import torch

from optimcb.engine import memory
from optimcb.engine.shards import spread_of

__all__ = ['Launch', 'KernelLaunch']


class Launch:
    "Parameters whose programs have the same key, and a step of them."
    def __init__(self,
        members:list, # `(who is alike, their program)`: programs with the same key
        at:list # Of each of them, the index of its first parameter in the plan
    ):
        self.members, self.program = members, members[0][1]
        self.parts = [slice(i, i + len(a.params)) for i, (a, _) in zip(at, members)]
        self.spread = spread_of(members[0][0].example)
        places = [k for a, _ in members for k in a.places]
        self.order = sorted(range(len(places)), key=places.__getitem__) # in which all processes have the parameters, however they tell them apart

    def _gather(self, table, ops):
        "Let `table`, which has a row for each tensor and a column for each reduction, have what they came to in all processes"
        order = torch.tensor(self.order, device=table.device)
        part = table[order]
        self.spread.gather(part, ops)
        table[order] = part

    def finish(self):
        "Hand out the state that was made."
        for (a, _), made in zip(self.members, self.made): memory.hand_out(a, made)


class KernelLaunch(Launch):
    """A launch of kernels. `memory` has a row of addresses for each parameter, a column for each of the program's, and
    `numbers` a row for each member, a column for each number that the program takes: a subclass makes them, then calls `_place_all`."""
    def __init__(self,
        members:list, # `(who is alike, their program)`: programs with the same key
        at:list # Of each of them, the index of its first parameter in the plan
    ):
        super().__init__(members, at)
        self.columns = {name: j for j, name in enumerate(self.program.columns)}
        self.rows = np.cumsum([0, *(len(a.params) for a, _ in members)])
        self.grads = None # the addresses of gradients that are in the table

    def _place_all(self):
        "Note the addresses of parameters and of state that is there"
        for i, (a, _) in enumerate(self.members): self._place(i, {'.p': a.params, **a.tensors})

    def _place(self, i, lists):
        "Note the addresses of member `i`'s tensors, by column"
        for name, tensors in lists.items(): self._note(i, name, [t.data_ptr() for t in tensors])

    def _note(self, i, name, ptrs):
        if name in self.columns: self.memory[self.rows[i]:self.rows[i+1], self.columns[name]] = ptrs

    def _fill(self, recordings, plan):
        "Fill in what changes from step to step: gradients and numbers"
        self.made, self.held = [], []
        for i, ((a, program), r) in enumerate(zip(self.members, recordings)):
            slots = r.trace.slots
            self.numbers[i] = [slots[k] for k in program.slots]
            if plan.grad_ptrs is not self.grads: self._note(i, '.grad', plan.grad_ptrs[self.parts[i]])
            self.made.append(memory.new_states(a, program.fresh, slots))
            if program.fresh: self._place(i, self.made[i])
            if r.trace.externals:
                self.held.append([_moved(o.detach(), a.example.device) for o in r.trace.externals])
                self._place(i, {k: [o]*len(a.params) for k, o in enumerate(self.held[-1])})
        self.grads = plan.grad_ptrs

    def _gather_sums(self, i, table):
        "Let `table` of all sums have what those of phase `i` came to in all processes"
        p = self.program
        sums = [j for j, k in enumerate(p.sums) if p.levels[k] - 1 in p.phases[i]]
        if not sums: return
        part = table[:, sums]
        self._gather(part, [p.nodes[p.sums[j]].op for j in sums])
        table[:, sums] = part

    def _yielded(self, i) -> dict:
        "What phase `i` yielded, summed over the parameters, by its round"
        p = self.program
        return {p.rounds[j][0]: self.yields[:, j].sum() for j, (_, level) in enumerate(p.rounds) if level == p.phases[i][-1]}


def _moved(x, device):
    "A number on a device, without waiting for it"
    return x.pin_memory().to(device, non_blocking=True) if x.is_cpu and device.type != 'cpu' else x.to(device)
