"""The dataflow of a composition: what each stepper reads and writes in rehearsed steps.

A node is a stepper at its place in the composition. Its inputs and outputs are names: of state, of
hyper-parameters, of values that live for one step, and of the parameter (`p`) and its gradient (`grad`).
Checks ask which outputs reach the parameter, `explain` shows the nodes' inputs and outputs, and formulas ask
from which place on a name is state.
"""
from collections.abc import Iterable
from functools import cached_property

from optimcb.composition.stepper import Stepper
from optimcb.tracing.rehearsal import Effect

__all__ = ['Dataflow', 'Node']


class Node:
    "A stepper, and what it reads and writes in all rehearsed steps."
    def __init__(self,
        stepper:Stepper, # The stepper
        place:int # Its place in the composition
    ):
        self.stepper, self.place, self.effects = stepper, place, []
        # Names that it wrote, as formulas show them: a value that hides another name has a hat
        self.shown_outputs = set()

    def add(self,
        effect:Effect # What the stepper did in a step
    ):
        "Add an effect of the stepper in a step."
        self.effects.append(effect)
        self.shown_outputs.update(effect.shown.get(k, k) for k in (*effect.writes, *effect.numbers))

    def __repr__(self): return f'{type(self).__name__}({self.stepper}, {self.place})'

    @property
    def label(self) -> str:
        "The stepper's name."
        return self.stepper.label

    @property
    def given(self) -> list[str]:
        "The state, hyper-parameters and one-step values that it received, in the order of its signature."
        return list(dict.fromkeys(k for a in self.effects for k in a.given))

    @property
    def inputs(self) -> list[str]:
        "The names that it received, after `p` and `grad` if its results depend on them."
        tensors = [k for k in ('p', 'grad') if any(k in a.reads for a in self.effects)]
        return list(dict.fromkeys([*tensors, *self.given]))

    @property
    def outputs(self) -> list[str]:
        "The names of tensors and numbers that it wrote."
        return list(dict.fromkeys(k for a in self.effects for k in (*a.writes, *a.numbers)))

    @property
    def reads(self) -> set[str]:
        "The names that it takes, or that its results depend on."
        return set(self.stepper.names).union(*(a.reads | set(a.given) for a in self.effects))

    @property
    def acts_at_all(self) -> bool:
        "Does it return or change anything?"
        return any(a.returns or a.writes for a in self.effects)

    @property
    def results(self) -> dict[str, bool]:
        """The names that it writes for other steppers, each with whether it is state, which lasts.

        State that is one number per parameter is left out: it may be meant for the user to read."""
        res = {}
        for a in self.effects:
            res |= {k: k in a.kept for k in a.writes if k not in a.kept & a.single}
            res |= {k: False for k in a.numbers if k not in a.kept}
        return res

    @property
    def kept_scalars(self) -> set[str]:
        "The state that it writes as one number per parameter, in a tensor."
        return set().union(*(a.kept & a.single & a.writes.keys() for a in self.effects))

    @property
    def keeps_weights(self) -> bool:
        "Does it write state that depends on the parameter, such as a mean of weights?"
        return any('p' in a.reads and a.kept & a.writes.keys() for a in self.effects)


class Dataflow:
    "The dataflow graph of steppers over rehearsed steps."
    def __init__(self,
        steps:Iterable[list[Effect]]=() # What the steppers did, step by step
    ):
        self.steps, self.by_place = [], {}
        for effects in steps: self.add(effects)

    def add(self,
        effects:list[Effect] # What the steppers did in a step
    ):
        "Add a step."
        self.steps.append(effects)
        for a in effects: self.by_place.setdefault(a.place, Node(a.stepper, a.place)).add(a)
        self.__dict__.pop('live', None) # recompute it

    @property
    def nodes(self) -> list[Node]:
        "The nodes, in the order of the composition."
        return [self.by_place[place] for place in sorted(self.by_place)]

    @property
    def effects(self) -> list[Effect]:
        "The effects of all steppers in all steps, in order."
        return [a for effects in self.steps for a in effects]

    @property
    def given(self) -> set[str]:
        "The names that some stepper received."
        return set().union(*(a.given for a in self.effects))

    # Results that reach the parameter

    def readers(self,
        node:Node, # A node
        name:str, # One of its outputs
        lasts:bool # Is it state, which earlier steppers read in the next step?
    ) -> list[Node]:
        "List the other nodes that read an output."
        candidates = [o for o in self.nodes if o is not node and (lasts or o.place > node.place)]
        return [o for o in candidates if name in o.reads]

    @cached_property
    def live(self) -> list[Node]:
        """The nodes that record something, keep a mean of weights, or have outputs that reach the parameter.

        Nodes without results are included, as they have nothing that could be left unread."""
        def is_sink(o): return 'p' in o.results or not o.results or o.keeps_weights or bool(o.stepper.taps)
        live = {o.place for o in self.nodes if is_sink(o)}
        readers = {o.place: self._readers_of_all(o) for o in self.nodes}
        while more := {place for place in readers.keys() - live if readers[place] & live}: live |= more
        return [o for o in self.nodes if o.place in live]

    def _readers_of_all(self, node) -> set:
        "Return the places of nodes that read any output of a node"
        made = {**node.results, **dict.fromkeys(node.kept_scalars, True)}
        return {o.place for name, lasts in made.items() for o in self.readers(node, name, lasts)}

    # Results of gradients

    def moves(self,
        effects:list[Effect]|None=None # Effects to search; default: those of all steps
    ) -> list[Effect]:
        "List the effects that move the parameter along the gradient or values derived from gradients."
        from_gradients, res = {'grad'}, []
        for a in self.effects if effects is None else effects:
            if not a.reads & from_gradients: continue
            from_gradients.update(a.writes.keys() - a.single - {'p'}) # a step size is not a direction
            if 'p' in a.writes: res.append(a)
        return res

    # Names, as formulas show them

    def written_before(self,
        place:int # A place in the composition
    ) -> set[str]:
        "Return the names that steppers before a place write, as formulas show them."
        return set().union(*(o.shown_outputs for o in self.by_place.values() if o.place < place))

    @property
    def state(self) -> set[str]:
        "The names of written state, as formulas show them, and the parameter and its gradient."
        return {a.shown.get(k, k) for a in self.effects for k in a.kept} | {'p', 'grad'}

    @property
    def counters(self) -> set[str]:
        "The names of state that are plain numbers."
        return {a.shown[k] for a in self.effects for k in a.numbers if k in a.kept}
