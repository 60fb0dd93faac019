"""What reading a stepper's code has found, and whether something outside may be changed.

Names of attributes are collected, not pairs of an object and a name: which object an attribute is looked up
in is unknown before the code runs.
"""
from collections import defaultdict

from torch import Tensor
from torch.nn import Parameter

from optimcb.tracing.objects import attributes_of, is_a, is_in
from optimcb.tracing.purity_tables import (
    ANY_NAME,
    CALLS,
    CHANGE,
    CHANGE_BY,
    DRAW,
    DRAWN,
    INSIDES,
    MADE_IN_C,
    SHARES,
    Impure,
)

__all__ = ['Findings']


class Findings:
    "What the code that was read loads, names, uses and changes."
    def __init__(self):
        self.seen = {} # objects that were read, by id
        self.names = set() # attributes that the code reads from unknown objects
        self.objects = [] # objects of which any method may be called, with their names
        self.members = defaultdict(set) # by id of an object, the names that were read from it
        self.held, self.memory = {}, [] # containers by name, and names of tensors and arrays
        self.changes = set() # names of methods that may change a container
        self.sets = set() # names of attributes that are set
        self.in_place = False # may a container be changed through another name?
        self.writes = False # may a tensor be written to through another name?
        self.hands_out = False # does a function return something outside that can be changed?
        self.gives_out = False # is a function told where to write its result?
        self.special = set() # special methods that are used, of those that rarely are
        self.by_any_name = False # are attributes looked up by names that aren't known?
        self.matches = False # are there patterns like `case Class(…)`?
        self.asks_type = False # does it use `isinstance` or the like?
        self.asks_class, self.looks_up = False, False # does it use `type`; is a set or dict looked up?
        self.stepper = None
        self.codes, self.functions = [], [] # code objects and functions that were read
        # what was read from outside: `(dict, name, object)` of modules, `(cell, object)` of closures
        self.loaded, self.cells = [], []
        self.owners, self.imports = [], [] # other objects whose attributes were read; imported modules
        self.tells_numbers = False # does it compare a number by `is`?
        self.asks_module = False # does a module's `__getattr__` work an attribute out?

    def named(self, k):
        "Note an attribute of an unknown object"
        if k in DRAW: raise Impure(DRAWN.format(k))
        self.names.add(k)
        self.called(k)
        if k in ('get', 'setdefault'): self.looks_up = True

    def called(self, name):
        "Note a function or method that changes what it is given, or uses special methods"
        if name in INSIDES: raise Impure(f"it uses `{name}`")
        if name in CHANGE or name in CHANGE_BY: self.changes.add(name)
        if name in SHARES: self.names.add(name)
        self.special |= CALLS.get(name, frozenset())
        self.by_any_name |= name in ANY_NAME

    def classes(self, o) -> list:
        "The classes in which attributes of an object are looked up, except those whose code is known"
        classes = list(type(o).__mro__)
        if is_a(o, type): classes += o.__mro__
        elif self.asks_class or '__class__' in self.names: classes += type(type(o)).__mro__
        return [c for c in classes if not is_in(c, (*MADE_IN_C, Tensor, Parameter))]

    def check_changes(self):
        "Raise `Impure` if something outside may be changed"
        for o, name in self.objects:
            there = attributes_of(o).keys() | {k for c in self.classes(o) for k in vars(c)}
            for k in self.sets & there: raise Impure(f"it may set `{name}.{k}`")
        if self.asks_class and (self.looks_up or any(is_a(o, (dict, set)) for o in self.held.values())):
            raise Impure("it may look a type up: ask with `isinstance`, or compare")
        for name, o in self.held.items():
            methods = {k for c in type(o).__mro__ for k in vars(c)} | CHANGE_BY | {'[]'}
            if self.in_place or self.by_any_name or self.changes & methods:
                raise Impure(f"it may change `{name}`, which lies outside of it")
        is_written = self.writes or self.in_place or self.gives_out or self.by_any_name
        if self.memory and (is_written or self.names & SHARES):
            raise Impure(f"it may write into `{self.memory[0]}`, which lies outside of it")
