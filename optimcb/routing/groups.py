"What rules are for: parameters without decay, and groups."
from torch import nn

from optimcb._boundary import entry
from optimcb.composition.rules import Rule, _rule, norms_and_biases
from optimcb.optimizer import Optimizer

__all__ = ['grouped', 'no_wd']


# What rules are for

@entry
def no_wd(
    opt:Optimizer, # Some of whose parameters are not to be decayed
    where # A rule, or a model, of which it is `norms_and_biases`
) -> Optimizer:
    """Don't decay the parameters for which a rule holds. Returns `opt`, whose `explain()` lists them.

    Raises `ValueError` if nothing is decayed, or if the rule holds for no parameter. `by_ndim(0, 1)` needs no model."""
    if 'do_wd' not in opt.composition.reads: raise ValueError(f"no stepper of {', '.join(opt.composition.labels)} reads `do_wd`. Is anything decayed?")
    found = _found(opt.param_groups, norms_and_biases(where) if isinstance(where, nn.Module) else _rule(where))
    if not found: raise ValueError(f"{where if isinstance(where, Rule) else norms_and_biases(where)!r} holds for no parameter: all would be decayed.")
    for p in found: opt.state[p]['do_wd'] = False
    return opt


def _found(groups, rule) -> list:
    "The parameters of groups for which a rule holds"
    test = rule.test()
    return [p for g in groups for p, k in zip(g['params'], g.get('param_names') or [None]*len(g['params'])) if test(p, k)]


@entry
def grouped(
    model:nn.Module, # Model; parameters that are frozen now are in the groups, too
    rules:dict # By rule, hyper-parameters of the parameters for which it holds: the first rule counts that does
) -> list[dict]:
    """Groups of named parameters, one for each rule and, last, one of the rest: `AdamW(grouped(model, {norms_and_biases(model): dict(wd=0.)}), lr=1e-3)`.

    Groups without parameters are left out."""
    tests = [(_rule(r).test(), {'params': [], **hypers}) for r, hypers in rules.items()] + [(lambda p, name: True, {'params': []})]
    for name, p in model.named_parameters(): next(g for fits, g in tests if fits(p, name))['params'].append((name, p))
    return [g for _, g in tests if g['params']]
