"""A step on an engine that traces: record it for all that are alike, and launch a kernel for each structure.

What can't be traced, or has no kernel, is left to the eager engine, with one warning that says why.
"""
from collections import Counter
from collections.abc import Hashable
from functools import reduce
from importlib import import_module

import torch

from optimcb._tensors import spread_of, whole
from optimcb.engines import c_kernels, foreach
from optimcb.engines.c_compiler import CantBuild
from optimcb.engines.grad_scaling import NOT_SCALED, Doubt, Scaling
from optimcb.engines.plan import Plan
from optimcb.engines.sharded import Shards, agreed
from optimcb.tracing.bucket import Changed
from optimcb.tracing.opaque import OutputMismatch
from optimcb.tracing.program import Program, Unsupported
from optimcb.tracing.purity import asks_type, impurities
from optimcb.tracing.recording import record
from optimcb.tracing.rng import RngSnapshot
from optimcb.warn import warn

__all__ = ['CantRun', 'Runner']


NOTHING = object() # what an attribute is that isn't there
MANY = 100 # kernels that a composition may have: one for each combination of branches that it takes


class CantRun(RuntimeError):
    "An engine that was asked for by name can't run the composition."


class Runner:
    "The engine of one optimizer: its plan, its programs, and what its composition can't do."
    def __init__(self,
        engine:str # 'auto', 'fused' or 'foreach'
    ):
        self.engine, self.composition, self.doubt, self.captured, self.shards = engine, None, None, None, Shards()

    def _begin(self, composition):
        self.composition = self.plan = None
        self.refused, self.looked, self.programs, self.said, self.agreed = {}, set(), {}, set(), set()
        self.kernels = True # have they been built for a GPU, so far?
        self.recorded = None # a list, where a step is made of several calls, which share recordings
        self.asks_type = any(map(asks_type, composition.steppers))
        for reason in impurities(composition): self._refuse(None, reason)
        for s in composition.draws: self._refuse(None, f"stepper `{s}` draws random numbers for each parameter.", quiet=True)
        self.composition = composition

    def look(self, p) -> tuple:
        "What the steppers look at, of `p`."
        p, spread = whole(p), spread_of(p)
        seen = [(k, p.stride() if k == 'stride()' else getattr(p, k, NOTHING)) for k in sorted(self.looked)]
        if spread: seen.append(('', spread))
        return tuple((k, v if isinstance(v, Hashable) else id(v)) for k, v in seen)

    def refusal(self,
        key:tuple # What a parameter has in common with those that are alike
    ) -> str|None:
        "Why such parameters are left to the eager engine, if they are."
        return next((self.refused[k] for k in (None, _kind(key), _kind_with_state(key)) if k in self.refused), None)

    def _refuse_all(self, failures, alike):
        "Leave those to the eager engine that can't be recorded. Where parameters of the same kind could be that have other state, it is due to that"
        failed = {_kind_with_state(o.key) for e in failures for o in e.buckets}
        others = {_kind(a.key) for a in alike if _kind_with_state(a.key) not in failed} if len(self.refused) < MANY else ()
        for e in failures:
            key = e.buckets[0].key
            self._refuse(None if self.composition.sums_over_all else _kind_with_state(key) if _kind(key) in others else _kind(key), e.reason)

    def _refuse(self, kind, reason, quiet=False):
        "Leave a kind of parameters, or all, to the eager engine"
        if self.engine != 'auto': raise CantRun(f"engine='{self.engine}' can't run this: {reason} `engine='auto'` falls back to what can.")
        self.refused[kind] = reason
        place = reason.split(': ')[0] # the stepper and the line
        if place not in self.said and not quiet: warn(f"the eager engine runs what the fused one can't: {reason}")
        self.said.add(place)

    def step(self,
        opt, # Optimizer
        composition, # Its composition
        hypers:list[dict], # Hyper-parameters of each group
        scaling:Scaling, # What the gradients were multiplied by, and whether to skip the step
        eagerly, # Steps what is left to the eager engine: called with the work, before a kernel stores anything
        mark=None # Called before a new plan is made, where it isn't known whether states tell for which parameters steppers are there
    ) -> tuple[set, list]:
        """Step all parameters. Returns the names of new state, and the parameters that kernels have stepped.

        Raises `MissingName`, `CantRun` for an engine that was asked for by name, and what a function by torch or
        `eagerly` raises. Kernels have stored nothing then: only their last phase does, which comes after `eagerly`.
        """
        self.settle()
        if composition is not self.composition: self._begin(composition)
        given, opt = opt, self.shards.open(opt)
        try:
            if self.plan is None: raise Changed
            self.plan.refresh(opt, composition)
        except Changed:
            if mark: mark()
            self.plan = Plan(opt, composition, self)
        before = self.plan, len(self.plan.launches)
        while (prepared := self._prepared(hypers, scaling)) is None: self.plan = Plan(opt, composition, self)
        plan, (recordings, launches) = self.plan, prepared
        capturing = _capturing()
        if capturing: self._capture(before == (plan, len(plan.launches)), launches, scaling)
        try:
            for launch, of in launches: (launch.capture if capturing else launch.start)([recordings[i] for i in of], plan)
            running, doubt = [launch for launch, _ in launches], Doubt(scaling.found) if scaling.in_doubt else None
            _to_the_last(running)
            if plan.eager: eagerly(self._left(plan, hypers))
            _store(running)
            self.doubt = doubt
            made = set() if capturing else self._count(recordings) # what is captured is not done
        except OutputMismatch as e: # before anything has changed
            self._refuse(None, f"{e}")
            self.plan = None
            return self.step(given, composition, hypers, scaling, eagerly, mark)
        except BaseException:
            self.plan = None # it was broken off on the way: only the state itself tells how far it came
            raise
        plan.release()
        if any(r.program.new for r in recordings): self.plan = None # there is state that wasn't there
        if opt is not self.shards: return made, plan.flat
        self.shards.close(plan.flat)
        return made, list(map(whole, plan.flat))

    def _left(self, plan, hypers) -> list:
        "The work that is left to the eager engine, of whole parameters"
        if not self.shards.sharded: return [(p, state, hypers[i]) for p, state, i in plan.eager]
        states = self.shards.opt.state
        return [(whole(p), states[whole(p)], hypers[i]) for p, _, i in plan.eager]

    def _count(self, recordings) -> set:
        "Let states have the numbers that a step has made. Names of what is new"
        made = set()
        for a, r in zip(self.plan.alike, recordings):
            new = {*r.program.new, *r.numbers} - a.numbers.keys()
            made |= new
            if self.doubt: self.doubt.note([*a.states, *self.shards.of_optimizer(a.params)], new, dict(a.numbers))
            for name, v in r.numbers.items():
                a.numbers[name] = v
                for s in a.states: s[name] = v
        return made

    def _capture(self, was_ready, launches, scaling):
        "Note what a CUDA graph captures"
        why = ("a part of it is run by the eager engine" if self.plan.eager else "a GradScaler may skip it" if scaling.in_doubt else
               "a function is called between its kernels" if any(o.program.calls for o, _ in launches) else
               "it makes state or kernels: take some steps before" if not was_ready else
               "its numbers are not on the device, with the foreach engine" if any(not hasattr(o, 'capture') for o, _ in launches) else None)
        if why: raise CantRun(f"a CUDA graph can't have this step, since {why}.")
        self.captured = self.plan, launches, self.plan.grad_ptrs

    def renew(self,
        hypers:list[dict] # Hyper-parameters of each group
    ):
        "Let the step that a CUDA graph has captured be the next one. Raises `CantRun`."
        self.settle()
        plan, launches, grads = self.captured or (None, None, None)
        if plan is None or plan is not self.plan or plan.refrozen():
            raise CantRun("no step was captured in a CUDA graph, or parameters or state have changed since. Capture `opt.step()` after some steps.")
        recordings, launches_now = self._prepared(hypers, NOT_SCALED) or (None, None)
        if self.plan is not plan or launches_now is not launches:
            raise CantRun("the next step takes another branch than the one that was captured. Capture `opt.step()` again.")
        plan.grad_ptrs = grads # where they were then
        for launch, of in launches: launch.renew([recordings[i] for i in of], plan)
        self._count(recordings)

    def settle(self):
        "Find out whether the last step was skipped, if only a device knew."
        doubt, self.doubt = self.doubt, None
        if doubt and doubt.settle(): self.plan = None

    def _prepared(self, hypers, scaling) -> tuple[list, list]|None:
        "A recording for each who are alike, and the launches; None if the plan must be made again"
        plan, looked = self.plan, set(self.looked)
        before = RngSnapshot() if not self.programs else None
        failures = []
        recordings = record(plan.alike, self.composition, hypers, looked, self.asks_type, scaling, self.recorded, failures)
        if looked != self.looked: # then fewer are alike
            self.looked = looked
            return None
        if failures:
            self._refuse_all(failures, plan.alike)
            return None
        if before and before.restore_if_moved() and recordings:
            self._refuse(None, "the steppers draw random numbers, other ones for each parameter.")
            return None
        for r in recordings:
            key = *r.key, bool(plan.spreads)
            r.program = self.programs.get(key)
            if r.program is None: r.program = self.programs[key] = Program(*key)
        if recordings and len(self.programs) > MANY:
            self._refuse(None, f"the operations differ from step to step, and would be compiled {MANY} times and more. Loop a fixed number of times.")
            return None
        programs = [r.program for r in recordings]
        key = tuple(map(id, programs))
        if key not in plan.launches:
            launches, failure = None, None
            try: launches = self._launches(plan, programs)
            except (Unsupported, CantBuild) as e: failure = e
            if plan.spreads and not self.agreed.issuperset(key): # one that makes another plan of the same programs doesn't ask
                failure = agreed(failure, plan.spreads)
                self.agreed.update(key)
            if not failure: plan.launches[key] = launches
            else:
                if self.engine == 'auto' and self.kernels and any(a.example.device.type != 'cpu' for a in plan.alike):
                    self.kernels = False
                    warn(f"the foreach engine runs what the fused one can't: {failure}")
                else: self._refuse(None, f"{failure}")
                return None
        return recordings, plan.launches[key]

    def _launches(self, plan, programs) -> list:
        "Launches, and the indices of who are alike in each"
        if self.composition.sums_over_all and programs and (plan.eager or len({frozenset(r for r, _ in p.rounds) for p in programs if p.rounds}) > 1):
            raise Unsupported("some parameters can't be summed over with the others, by one kernel.")
        together, at = {}, 0
        for i, (a, p) in enumerate(zip(plan.alike, programs)):
            together.setdefault((p.key, a.example.device, spread_of(a.example)), []).append((i, (a, p), at))
            at += len(a.params)
        return [(self._lowering(device).Launch([m for _, m, _ in o], [at for _, _, at in o]), [i for i, _, _ in o]) for (_, device, _), o in together.items()]

    def _lowering(self, device):
        if self.engine == 'foreach': return foreach
        if device.type == 'cpu': return c_kernels
        if device.type == 'cuda' and self.kernels:
            try: return import_module('optimcb.engines.triton_kernels') # Triton is loaded when it is needed
            except ImportError as e: raise Unsupported(f"there is no Triton ({e}).") from None
        if self.engine == 'fused': raise Unsupported(f"there is no kernel for {device.type}.")
        return foreach


def _kind(key) -> tuple:
    "What parameters are told apart by, but for group and state: types, device, and what steppers look at"
    return key[3:]


def _kind_with_state(key) -> tuple:
    "The same, and the kinds of their state; numbers among it may change with each step"
    return key[1], *key[3:]


def _capturing() -> bool:
    "Does a CUDA graph capture what is launched now?"
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _added(a, b):
    "The sum, on the device of the first"
    return a + b.to(a.device, non_blocking=True) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a + b


def _store(launches):
    "The last phase of all launches, which stores what they have worked out"
    for o in launches: o.phase(len(o.program.phases) - 1)
    for o in launches: o.finish()


def _to_the_last(launches):
    "All phases but the last: a launch goes on as long as it knows what it has asked for, which it does when all others have yielded for it, too"
    if all(len(o.program.phases) == 1 for o in launches): return
    done, yielded, known = [0 for _ in launches], {}, set()
    asked = Counter(round for o in launches for round in {r for r, _ in o.program.rounds}) # what ends early asks for none
    while any(i + 1 < len(o.program.phases) for i, o in zip(done, launches)):
        for j, o in enumerate(launches):
            p = o.program
            while done[j] + 1 < len(p.phases) and known.issuperset(r for rounds in p.rounds_by_phase[:done[j]] for r in rounds):
                for round, x in o.phase(done[j]).items(): yielded.setdefault(round, []).append(x)
                if p.calls: o.call(done[j])
                done[j] += 1
        totals = {round: reduce(_added, xs) for round, xs in yielded.items() if round not in known and len(xs) == asked[round]}
        known.update(totals)
        for o in launches: o.take(totals)
