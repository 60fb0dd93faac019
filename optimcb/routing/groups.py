"What rules are for: parameters without decay, and groups."
from torch import Tensor, nn

from optimcb._boundary import entry
from optimcb.composition.rules import Rule, as_rule, norms_and_biases
from optimcb.optimizer import Optimizer

__all__ = ['grouped', 'no_wd']


@entry
def no_wd(
    opt:Optimizer, # Optimizer in which some parameters are not to be decayed
    where # A rule, or a model, which stands for `norms_and_biases(model)`
) -> Optimizer:
    """Don't decay the parameters for which a rule holds. Returns `opt`, whose `explain()` lists them.

    Raises `ValueError` if nothing is decayed, or if the rule holds for no parameter. `by_ndim(0, 1)` needs
    no model."""
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
    """List the parameters of `groups` for which a rule holds.

    Raises `ValueError` if it needs a name that isn't there."""
    fits, found = rule.test(), []
    for g in groups:
        names = g.get('param_names') or [None]*len(g['params'])
        found += [p for p, name in zip(g['params'], names) if fits(p, name)]
    return found


@entry
def grouped(
    model:nn.Module, # Model; parameters that are frozen now are in the groups, too
    rules:dict # By rule, hyper-parameters of its parameters. The first rule that holds counts
) -> list[dict]:
    """Make groups of named parameters, one for each rule and, last, one of the rest.

    `AdamW(grouped(model, {norms_and_biases(model): dict(wd=0.)}), lr=1e-3)`. Groups without parameters are
    left out."""
    tests = [(as_rule(r).test(), {'params': [], **hypers}) for r, hypers in rules.items()]
    tests.append((lambda p, name: True, {'params': []}))
    for name, p in model.named_parameters():
        group = next(g for fits, g in tests if fits(p, name))
        group['params'].append((name, p))
    return [g for _, g in tests if g['params']]
