"Rules that select parameters: by name, shape, number of dimensions, or type of module."
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from optimcb._compat.boundary import entry

__all__ = ['Rule', 'by_module', 'by_name', 'by_ndim', 'by_shape', 'norms_and_biases']


# Rules

class Rule:
    """A condition on parameters. Combine rules with `&`, `|` and `~`.

    The result of a rule is saved in the state of each parameter, under the name `mark`."""
    values, mark, decider = (True, False), property(repr), property(lambda self: self)

    def test(self) -> Callable:
        """Return a function of a parameter and its name (or None) that says whether the rule holds.

        The function raises `ValueError` if it needs a name and there is none."""
        raise NotImplementedError

    def holds(self,
        v # The value in the state
    ) -> bool:
        "Does the rule hold, according to the state?"
        return bool(v)

    def __and__(self, other): return _Both(self, as_rule(other), all)
    def __or__(self, other): return _Both(self, as_rule(other), any)
    def __invert__(self): return _Not(self)
    def __bool__(self):
        raise TypeError(f"rule {self!r} is neither true nor false. Combine rules by `&`, `|` and `~`, "
                        "not by `and`, `or` and `not`.")


def as_rule(
    o # An object that should be a rule
) -> Rule:
    "Return `o` if it is a rule. Raises `TypeError` if not."
    if isinstance(o, Rule): return o
    hint = " A function of a shape is a rule by `by_shape`." if callable(o) else ''
    raise TypeError(f"a rule is needed, such as `by_ndim(2)`, but this is {o!r:.80} ({type(o).__name__})."
                    f"{hint}")


@dataclass(frozen=True, repr=False)
class _Both(Rule):
    a: Rule
    b: Rule
    how: Callable # `all` or `any`
    def test(self):
        tests = self.a.test(), self.b.test()
        return lambda p, name: self.how(fits(p, name) for fits in tests)
    def __repr__(self): return f"{_in(self.a)} {'&' if self.how is all else '|'} {_in(self.b)}"


@dataclass(frozen=True, repr=False)
class _Not(Rule):
    a: Rule
    def test(self):
        a = self.a.test()
        return lambda p, name: not a(p, name)
    def __repr__(self): return f'~{_in(self.a)}'


def _in(rule): return f'({rule!r})' if isinstance(rule, _Both) else repr(rule)


NAMELESS = ("{} asks for names, but a parameter of shape {} has none. Make the optimizer of "
            "`model.named_parameters()`, or give the rule the model: {}.")
OF_ANOTHER_MODEL = "a parameter of shape {} is not in the model of {!r}. Is it of another one"


@dataclass(frozen=True, repr=False)
class by_name(Rule):
    """Parameters whose name matches one of the patterns: `by_name('*.bias', 'head.*')`.

    `*` matches anything, as in file names."""
    patterns: tuple
    model: nn.Module|None
    @entry
    def __init__(self,
        *patterns:str, # Names, with `*`, `?` and `[…]`
        model:nn.Module|None=None # Model to take names from; default: the names that the optimizer was given
    ):
        if not patterns or not all(isinstance(k, str) for k in patterns):
            raise TypeError(f"by_name needs patterns of names, such as '*.bias', not {patterns}.")
        _init(self, patterns=patterns, model=model)

    def test(self):
        if self.model is None: return self._by_own_name
        names = {}
        for k, p in self.model.named_parameters(remove_duplicate=False): names.setdefault(id(p), []).append(k)
        def fits(p, name):
            if id(p) in names: return any(map(self._fits, names[id(p)]))
            if name is None: raise ValueError(OF_ANOTHER_MODEL.format(tuple(p.shape), self) + '?')
            return self._fits(name)
        return fits

    def _by_own_name(self, p, name):
        if name is None:
            with_model = f"{repr(self)[:-1]}, model=model)"
            raise ValueError(NAMELESS.format(self, tuple(p.shape), with_model))
        return self._fits(name)

    def _fits(self, name):
        own = name.replace('_orig_mod.', '').removeprefix('module.') # of `torch.compile`, data parallelism
        return any(fnmatchcase(own, k) for k in self.patterns)

    def __repr__(self): return f"by_name({', '.join(map(repr, self.patterns))})"


@dataclass(frozen=True, repr=False)
class by_shape(Rule):
    "Parameters whose shape a function accepts: `by_shape(is_square)`."
    f: Callable
    def __init__(self,
        f:Callable # Function of a shape; to pickle the optimizer, define it at the top of a module
    ): _init(self, f=f)
    def test(self): return lambda p, name: bool(self.f(_shape(self, p)))
    def __repr__(self): return f"by_shape({getattr(self.f, '__name__', type(self.f).__name__)})"


@dataclass(frozen=True, repr=False)
class by_ndim(Rule):
    """Parameters with the given numbers of dimensions: `by_ndim(0, 1)` selects norms and biases,
    `by_ndim(2)` matrices."""
    dims: tuple
    @entry
    def __init__(self,
        *dims:int # Numbers of dimensions
    ):
        if not dims or not all(isinstance(n, int) for n in dims):
            raise TypeError(f"by_ndim needs numbers of dimensions, such as 2, not {dims}.")
        _init(self, dims=dims)
    def test(self): return lambda p, name: len(_shape(self, p)) in self.dims
    def __repr__(self): return f"by_ndim({', '.join(map(str, self.dims))})"


def _shape(rule, p):
    if not getattr(p, '_fsdp_flattened', False): return tuple(p.shape)
    raise ValueError(f"{rule!r} asks for a shape, which a piece of `FullyShardedDataParallel` doesn't have. "
                     "Shard the model with `torch.distributed.fsdp.fully_shard`.")


@dataclass(frozen=True, repr=False)
class by_module(Rule):
    "Parameters of modules or types of modules, at any depth: `by_module(model, nn.Embedding, model.head)`."
    model: nn.Module
    which: tuple
    @entry
    def __init__(self,
        model:nn.Module, # Model that contains the modules
        *which # Types of modules, or modules of the model
    ):
        if not isinstance(model, nn.Module):
            raise TypeError("by_module needs the model first, "
                            f"but has {type(model).__name__}: {model!r:.60}.")
        for o in which or [None]:
            if not (isinstance(o, type) and issubclass(o, nn.Module) or isinstance(o, nn.Module)):
                raise TypeError("by_module needs types of modules, such as nn.Embedding, or modules of the "
                                f"model, but has {o!r:.80}.")
        _init(self, model=model, which=which)

    def test(self):
        types = tuple(o for o in self.which if isinstance(o, type))
        found = [m for m in self.model.modules() if isinstance(m, types) or any(m is o for o in self.which)]
        return _among(self, {id(p) for m in found for p in m.parameters()})
    def __repr__(self):
        which = [o.__name__ if isinstance(o, type) else _path(self.model, o) for o in self.which]
        return f"by_module({', '.join([type(self.model).__name__, *which])})"


def _path(model, module):
    return next((k for k, m in model.named_modules() if m is module), type(module).__name__)


def _among(rule, ids):
    in_model = {id(p) for p in rule.model.parameters()}
    def fits(p, name):
        if id(p) not in in_model:
            other = OF_ANOTHER_MODEL.format(tuple(p.shape), rule)
            raise ValueError(f'{other}, or was the model changed since?')
        return id(p) in ids
    return fits


@dataclass(frozen=True, repr=False)
class norms_and_biases(Rule):
    """Parameters that usually have no weight decay: those of norms, those with `bias` in their name, and
    those that the model lists in `no_weight_decay()`, as timm's models do.

    Norms are modules without children whose type has `norm` in its name."""
    model: nn.Module
    def test(self):
        norms = [m for m in self.model.modules() if _is_norm(m)]
        of_norms = {id(p) for m in norms for p in m.parameters(recurse=False)}
        listed = getattr(self.model, 'no_weight_decay', set)()
        params = self.model.named_parameters(remove_duplicate=False)
        named = {id(p) for k, p in params if 'bias' in k.rpartition('.')[2] or k in listed}
        return _among(self, named | of_norms)

    def __repr__(self): return f'norms_and_biases({type(self.model).__name__})'


def _is_norm(module) -> bool: return 'norm' in type(module).__name__.lower() and not any(module.children())


def _init(self, **values):
    for k, v in values.items(): object.__setattr__(self, k, v)
