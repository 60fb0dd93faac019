"""PyTorch's own tests of optimizers, schedulers and averaged models, run on optimcb's optimizers.

    python tests/suites/torch_optim.py pytorch/test                   # a checkout's folder `test`, best of the version that is installed
    python tests/suites/torch_optim.py pytorch/test --engine eager -k state_dict
    python tests/suites/torch_optim.py pytorch/test --baseline        # torch's optimizers alone

The same tests of torch's optimizers come first: what fails there, too, is a matter of versions, and isn't counted. A third suite, of our own, compares both
optimizers' numbers on all of torch's inputs. Here are torch's optimizers as compositions under torch's names, defaults and flags. `foreach=True` and `fused=True` choose the engines of
these names, so that torch's comparisons of its implementations are ones of engines. Needs `expecttest`, as torch's tests do.
"""
import argparse
import copy
import re
import subprocess
import sys
import time
import unittest
import warnings
from collections import Counter
from functools import partial
from math import sqrt
from pathlib import Path

import torch
from torch.testing._internal import common_optimizers

from optimcb import Composition, Optimizer
from optimcb import steppers as s
from optimcb.hypers.torch_names import from_torch

FLAGS = {'maximize', 'amsgrad', 'nesterov', 'centered', 'decoupled_weight_decay', 'foreach', 'fused',
         'capturable', 'differentiable'}
ENGINE = 'auto'


# Steppers that the library has not, because they are torch's own conventions

def ascend(p, **kwargs): p.grad = -p.grad.data


def dampened_grad(p, mom, dampening=0., grad_avg=None, **kwargs):
    "torch's momentum: the first gradient isn't dampened"
    if grad_avg is None: return {'grad_avg': p.grad.data.clone()}
    return {'grad_avg': grad_avg.mul_(mom).add_(p.grad.data, alpha=1-dampening)}


def torch_radam_step(p, lr, mom, sqr_mom, step, grad_avg, sqr_avg, eps=1e-8, **kwargs):
    "torch adds `eps` before it debiases"
    scale, debias1, debias2 = s.rectification(sqr_mom, step), s.debias(mom, 1-mom, step), s.debias(sqr_mom, 1-sqr_mom, step)
    if scale is None: p.data.add_(grad_avg, alpha=-lr/debias1)
    else: p.data.addcdiv_(grad_avg, sqr_avg.sqrt() + eps, value=-lr*scale*sqrt(debias2)/debias1)


# torch's optimizers

class TorchNamed(Optimizer):
    "A composition with a torch optimizer's arguments. Flags are the optimizer's, not a group's; other options can be a group's"
    options = {} # torch's, in order

    def __init__(self, params, *args, **kwargs):
        if not isinstance(params, (torch.Tensor, set, type(None))): params = list(params)
        groups = [g for g in params if isinstance(g, dict)] if isinstance(params, list) else []
        given = {**dict(zip(self.options, args)), **kwargs}
        unknown = given.keys() - self.options.keys() - FLAGS
        if unknown: raise TypeError(f"{type(self).__name__} has no {', '.join(unknown)}")
        flags = {k: v for d in (*groups, given) for k, v in d.items() if k in FLAGS}
        if flags.get('foreach') and flags.get('fused'):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together")
        hypers = {**self.options, **{k: v for k, v in given.items() if k not in FLAGS}}
        cbs = self.recipe(flags, any(d.get('momentum') for d in (hypers, *groups)))
        if flags.get('maximize'): cbs = [ascend, *cbs]
        read = Composition(cbs).reads
        hypers = {k: v for k, v in hypers.items() if k not in ('momentum', 'dampening', 'initial_accumulator_value') or v or from_torch({k: v}, read).keys() & read}
        if groups: params = [{k: v for k, v in g.items() if k not in FLAGS} for g in params]
        super().__init__(params, cbs, engine='foreach' if flags.get('foreach') else 'fused' if flags.get('fused') else ENGINE, **hypers)

    def recipe(self, flags, momentum): raise NotImplementedError


def adam_avgs(decay, sqr=s.average_sqr_grad): return [decay, partial(s.average_grad, dampening=True), sqr, s.step_stat]
def amsgrad(flags): return [s.max_sqr_avg, s.use_sqr_max]*bool(flags.get('amsgrad'))


class SGD(TorchNamed):
    options = dict(lr=1e-3, momentum=0, dampening=0, weight_decay=0)
    def recipe(self, flags, momentum):
        if not momentum: return [s.l2_reg, s.sgd_step]
        return [s.l2_reg, dampened_grad, *([s.nesterov_update, s.apply_update] if flags.get('nesterov') else [s.momentum_step])]

class Adam(TorchNamed):
    options = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    def recipe(self, flags, momentum): return [*adam_avgs(s.l2_reg), *amsgrad(flags), s.adam_step]

class AdamW(TorchNamed):
    options = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
    def recipe(self, flags, momentum): return [*adam_avgs(s.weight_decay), *amsgrad(flags), s.adam_step]

class NAdam(TorchNamed):
    options = dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3)
    def recipe(self, flags, momentum):
        decay = s.weight_decay if flags.get('decoupled_weight_decay') else s.l2_reg
        return [*adam_avgs(decay), s.nadam_schedule, s.nadam_avg, s.debias_sqr_avg, s.rms_update, s.apply_update]

class RAdam(TorchNamed):
    options = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    def recipe(self, flags, momentum):
        return [*adam_avgs(s.weight_decay if flags.get('decoupled_weight_decay') else s.l2_reg), torch_radam_step]

class Adamax(TorchNamed):
    options = dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    def recipe(self, flags, momentum):
        return [*adam_avgs(s.l2_reg, s.max_abs_grad), s.debias_grad_avg, s.adamax_update, s.apply_update]

class Adagrad(TorchNamed):
    options = dict(lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10)
    def recipe(self, flags, momentum):
        return [s.l2_reg, s.step_stat, s.decay_lr, s.sum_sqr_grad, s.rms_update, s.apply_update]

class Adadelta(TorchNamed):
    options = dict(lr=1., rho=0.9, eps=1e-6, weight_decay=0)
    def recipe(self, flags, momentum): return [s.l2_reg, s.average_sqr_grad, s.adadelta_update, s.apply_update]

class RMSprop(TorchNamed):
    options = dict(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0)
    def recipe(self, flags, momentum):
        sqr = [s.average_sqr_grad, *([s.average_center, s.center_sqr_avg] if flags.get('centered') else [])]
        return [s.l2_reg, *sqr, *([s.rms_update, s.average_update, s.apply_update] if momentum else [s.rms_prop_step])]

OURS = {o.__name__: o for o in (SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop)}


# What torch asks for that optimcb answers in another way, on purpose

OTHER_ERRORS = {
    "invalid param type": "a bare tensor is one parameter, as in fastai",
    "a param group cannot have duplicate parameters": "a ValueError, where torch warns",
    "warn on a bare unordered set of params": "a TypeError, where torch warns",
}
KNOWN = { # by name of the test and what it says
    (r'test_non_empty_state_SGD', r'0 not greater than 0'): "SGD without momentum keeps no state",
    (r'.', r'cycle_momentum'): "SGD without momentum has none that OneCycleLR and CyclicLR could cycle",
    (r'test_cycle_lr_with_adam', r'`mom` must be'): "a momentum of 22 is an error",
    (r'test_cycle_lr_triangular_mode_one_lr_no_momentum', r"KeyError: 'momentum"): "groups have our names",
    (r'test_fused_matches_forloop\w*float16', r'not close'): "kernels work in float32 on 16-bit numbers, where the eager engine rounds each operation",
}
NOT_HERE = {
    'test_optim_infos_do_not_specify_global_cliquey_kwargs': "about torch's list of tests",
    'test_fused_error_on_params_on_meta': "torch's message for its kernels",
}


def ours(info):
    "torch's description of an optimizer, with ours in the place of torch's"
    info = copy.copy(info)
    info.optim_cls = OURS[info.optim_cls.__name__]
    info.supported_impls, info.supports_fused_on = ('foreach', 'fused'), ('cpu',)
    info.has_capturable_arg = False # torch asks for `capturable=True` on GPUs alone; ours is in tests/engines/test_capturable.py
    errors = info.optim_error_inputs_func
    info.optim_error_inputs_func = lambda device, dtype: [_any_message(e) for e in errors(device, dtype) if _is_expected(info, e)]
    return info


def _is_expected(info, e):
    why = OTHER_ERRORS.get(e.optimizer_error_input.desc)
    if why: DIFFERENT[f"test_errors: {e.optimizer_error_input.desc}: {why}"] += 1
    return not why


def _any_message(e):
    "An error of the same type is asked for; the words are optimcb's"
    e.error_regex = ''
    return e


class Tracker(common_optimizers.TensorTracker):
    "Takes the numbers among the state, too, which are tensors in torch's"
    def add(self, x): super().add(torch.as_tensor(x))
    def pop_check_set(self, x, case, *args, **kwargs):
        if isinstance(x, torch.Tensor): super().pop_check_set(x, case, *args, **kwargs)
        else: case.assertEqual(self.tensors.pop(0), torch.as_tensor(x))


class Result(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.passed = []
    def addSuccess(self, test): self.passed.append(test)


DIFFERENT = Counter()


def load(folder, baseline):
    "The test modules, made for our optimizers"
    sys.path.insert(0, str(folder))
    db = common_optimizers.optim_db
    db[:] = [info if baseline else ours(info) for info in db if info.optim_cls.__name__ in OURS]
    common_optimizers.TensorTracker = Tracker
    theirs = {k: getattr(torch.optim, k) for k in OURS}
    if not baseline:
        for k, o in OURS.items(): setattr(torch.optim, k, o)
    try:
        import optim.test_lrscheduler as schedulers
        import test_optim as optimizers
    finally:
        for k, o in theirs.items(): setattr(torch.optim, k, o)
    return {'optimizers': [o for k, o in vars(optimizers).items() if k.startswith('TestOptimRenewed') and isinstance(o, type)],
            'schedulers': [schedulers.TestLRScheduler]}


def reason(text): # of a traceback, with torch's advice on how to run the test
    return next((line.strip() for line in text.splitlines() if re.match(r'^[\w.]*(Error|Exception|Warning|Name)\b', line)), text.strip())[:200]


def run(name, classes, words, baseline):
    "Runs a suite, prints what failed and counts; returns names of what failed"
    tests = [t for c in classes for t in unittest.defaultTestLoader.loadTestsFromTestCase(c) if all(w in t.id() for w in words)]
    result, left_out, start = Result(), Counter(), time.time()
    for t in tests:
        why = next((why for k, why in NOT_HERE.items() if k in t.id()), None)
        if why: left_out[why] += 1
        else: t.run(result)
    failed = [(t.id().split('.')[-1], text) for t, text in [*result.failures, *result.errors, *((t, 'unexpected success') for t in result.unexpectedSuccesses)]]
    new, known = [], Counter()
    for test, text in failed:
        why = next((why for (a, b), why in KNOWN.items() if re.search(a, test) and re.search(b, text)), None)
        if ENGINE is None: new.append((test, text))
        elif test in baseline: known["fails with torch's optimizers, too"] += 1
        elif why: known[why] += 1
        else: new.append((test, text))
    for test, text in new: print(f"FAILED {test}: {reason(text)}", *(['\n' + text] if VERBOSE else []))
    left_out.update(why for _, why in result.skipped)
    for kind, counts in (('known difference', known), ('skipped', left_out)):
        for why, n in counts.most_common(): print(f"  {kind}, {n}: {why[:160]}")
    print(f"{name}: {len(result.passed) + len(result.expectedFailures)} passed, {len(new)} failed, {known.total()} known differences, "
          f"{left_out.total()} skipped, of {len(tests)}, in {time.time()-start:.0f} s", flush=True)
    return new


class TestNumbers(unittest.TestCase):
    "Ours and torch's optimizers on the same gradients, which come and go, in float64, for each of torch's inputs"
    def compare(self, name, engine):
        theirs = getattr(torch.optim, name)
        info = next(i for i in common_optimizers.optim_db if i.optim_cls.__name__ == name)
        for given in info.optim_inputs_func(device='cpu'):
            with self.subTest(given.desc):
                flags = {} if engine == 'eager' else {engine: True}
                if torch.is_tensor(given.kwargs.get('lr')): flags = {} # torch's own foreach wants numbers
                both = []
                for make in (partial(OURS[name], **flags), theirs):
                    g = torch.Generator().manual_seed(0)
                    ps = [torch.nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64))
                          for shape in ((3, 4), (5,), ())]
                    opt = make(ps, **{k: v.to(torch.float64) if torch.is_tensor(v) else v for k, v in given.kwargs.items()})
                    for i in range(20):
                        for k, p in enumerate(ps):
                            p.grad = None if i % 5 == k else torch.randn(p.shape, generator=g, dtype=torch.float64)
                        opt.step()
                    both.append([p.detach() for p in ps])
                for a, b in zip(*both): torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

for _name in OURS:
    for _engine in ('eager', 'foreach', 'fused'):
        setattr(TestNumbers, f'test_{_name}_{_engine}',
                lambda self, name=_name, engine=_engine: self.compare(name, engine))


VERBOSE = False

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help="folder with test_optim.py and optim/test_lrscheduler.py")
    parser.add_argument('--engine', default='auto', help="where neither foreach nor fused is asked for")
    parser.add_argument('-k', action='append', default=[], help="only tests with this in their name")
    parser.add_argument('--baseline', action='store_true', help="torch's optimizers")
    parser.add_argument('-v', action='store_true', help="show tracebacks")
    args = parser.parse_args()
    ENGINE, VERBOSE = None if args.baseline else args.engine, args.v
    warnings.simplefilter('ignore')
    baseline = set()
    if not args.baseline:
        theirs = subprocess.run([sys.executable, '-W', 'ignore', __file__, str(args.folder), '--baseline', *(w for k in args.k for w in ('-k', k))],
                                capture_output=True, text=True)
        baseline = set(re.findall(r'^FAILED (\w+)', theirs.stdout, re.M))
    suites = load(args.folder, args.baseline)
    if not args.baseline: suites['numbers'] = [TestNumbers]
    failed = [f for name, classes in suites.items() for f in run(name, classes, args.k, baseline)]
    for k, n in DIFFERENT.most_common(): print(f"  known difference, {n}: {k}")
    sys.exit(bool(failed))
