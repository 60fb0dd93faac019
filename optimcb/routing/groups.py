"Use rules to exempt parameters from weight decay and to make groups."
from torch import Tensor, nn

from optimcb._compat.boundary import entry
from optimcb.composition.rules import Rule, as_rule, norms_and_biases
from optimcb.optimizer import Optimizer

__all__ = ['grouped', 'no_wd']


@entry
def no_wd(
    opt:Optimizer, # Optimizer with weight decay
    where # A rule, or a model, which stands for `norms_and_biases(model)`
) -> Optimizer:
    """Exempt parameters that match a rule from weight decay. Returns `opt`, whose `explain()` lists them.

    `by_ndim(0, 1)` needs no model. Raises `ValueError` if nothing is decayed, or if no parameter matches."""
    if 'do_wd' not in opt.composition.reads:
        raise ValueError(f"no stepper of {', '.join(opt.composition.labels)} reads `do_wd`. Is anything "
                         "decayed?")
    rule = norms_and_biases(where) if isinstance(where, nn.Module) else as_rule(where)
    found = params_of(opt.param_groups, rule)
    if not found: raise ValueError(f"{rule!r} holds for no parameter: all would be decayed.")
    for p in found: opt.state[p]['do_wd'] = False
    return opt


def params_of(
    groups:list[dict], # Parameter groups
    rule:Rule # Rule
) -> list[Tensor]:
    """List the parameters of `groups` that match a rule.

    Raises `ValueError` if the rule needs names and there are none."""
    fits, found = rule.test(), []
    for g in groups:
        names = g.get('param_names') or [None]*len(g['params'])
        found += [p for p, name in zip(g['params'], names) if fits(p, name)]
    return found


@entry
def grouped(
    model:nn.Module, # Model; its frozen parameters are included
    rules:dict # By rule, hyper-parameters of the matching parameters; the first matching rule counts
) -> list[dict]:
    """Return groups of named parameters, one per rule, and one for the rest at the end.

    For example, `AdamW(grouped(model, {norms_and_biases(model): dict(wd=0.)}), lr=1e-3)`. Empty groups are
    left out."""
    tests = [(as_rule(r).test(), {'params': [], **hypers}) for r, hypers in rules.items()]
    tests.append((lambda p, name: True, {'params': []}))
    for name, p in model.named_parameters():
        group = next(g for fits, g in tests if fits(p, name))
        group['params'].append((name, p))
    return [g for _, g in tests if g['params']]
