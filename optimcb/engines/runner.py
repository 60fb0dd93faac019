"""The owner of a step: run kernels where possible and the eager engine for the rest, and undo failures.

A step that differs from the last one in numbers and gradients only is `repeated`. Any other goes through
these files: `plan` groups the parameters into buckets, `compilation` finds the launches that step them, and
`launch` runs those, in phases. Only the last phase stores anything. Parameters without a kernel are stepped
before it."""
from functools import partial

import torch

from optimcb._compat.cpython import without_collection
from optimcb.engines import eager
from optimcb.engines.captures import Captures, is_capturing
from optimcb.engines.compilation import Compilation, Prepared
from optimcb.engines.frozen import grad_of, track
from optimcb.engines.grad_scaling import NOT_SCALED, PendingSkip, Scaling
from optimcb.engines.launch import run_to_last_phase, store
from optimcb.engines.masks import fill_masks
from optimcb.engines.plan import Plan
from optimcb.engines.refusals import CantRun
from optimcb.engines.repeated import Repeated
from optimcb.engines.sharded import Shards
from optimcb.engines.zeroing import may_store_zeros, zeroed_by_kernels
from optimcb.tracing.bucket import Changed
from optimcb.tracing.opaque import OutputMismatch

__all__ = ['CantRun', 'Runner']


class Runner:
    """Step an optimizer's parameters on one engine.

    `plan` says which parameters kernels step. `compilation` has the programs; runners of parts of one
    optimizer can share it. `repeated` is the last step, if it may be repeated. `pending` is a step that a
    GPU may have skipped, `captures` are those in CUDA graphs. If it `zeroes` gradients, `zeroed` are those
    that kernels have zeroed in the last step, and `scaling` tells whether that was skipped."""
    zeroes, zeroed, scaling = False, (), NOT_SCALED

    def __init__(self,
        engine:str, # 'auto', 'eager', 'foreach' or 'fused'
        compilation:Compilation|None=None # Programs to share with other runners; default: its own
    ):
        self.engine, self.compilation = engine, compilation
        self.plan = self.pending = self.repeated = None
        self.captures = Captures()
        self.shards = Shards()
        # what the eager engine has stepped: a composition; parameters, layouts and names of hyper-parameters
        self.tried_for, self.tried = None, set()

    composition = property(lambda self: self.compilation and self.compilation.composition,
                           doc="The composition that was stepped last; "
                               "None before that, and for the eager engine.")
    programs = property(lambda self: self.compilation.programs if self.compilation else {},
                        doc="The programs, by structure.")
    refused = property(lambda self: self.compilation.refusals.reasons if self.compilation else {},
                       doc="Why parameters are left to the eager engine, by kind.")

    def share(self,
        compilation:Compilation # Programs to share with other runners
    ):
        "Switch to other programs, and drop the plan."
        self.captures.drop()
        self.compilation, self.plan = compilation, None

    def close(self):
        "End the use of this runner: find out whether the last step was skipped, drop what was captured."
        self.settle()
        self.captures.drop()

    def step(self,
        opt, # Optimizer
        target, # The optimizer, or one of its parameters, with `param_groups`, `state` and `tracked`
        composition, # The optimizer's composition
        hypers:list[dict], # Hyper-parameters of each of the target's groups
        scaling:Scaling=NOT_SCALED # Scale and skip flag of a GradScaler
    ) -> set:
        """Step all parameters that have a gradient and aren't frozen. Return the names of new state.

        Nothing is stored until the whole step is known to succeed: kernels store in their last phase, after
        the eager engine has stepped the rest; anything new to the eager engine is stepped with rollback.
        Raises `MissingName`, `CantRun` if an engine that was requested by name can't run it, and the
        errors of steppers."""
        if composition.skips_nonfinite:
            grads = [grad_of(p, target.tracked) for p in _params(target)]
            scaling = scaling.or_nonfinite([g for g in grads if g is not None])
        self.scaling = scaling
        if composition.skips_nonfinite and not scaling.skip_on_device and scaling.skips(): return set()
        fill = partial(fill_masks, opt, target) if composition.masks else None
        if fill and (self.plan is None or self.plan.shardings): fill() # else the plan has seen the masks
        if self.engine == 'eager':
            return self._step_eagerly(composition, self._eager_work(target, hypers), hypers, scaling)
        return self._step_by_kernels(target, composition, hypers, scaling, fill)

    # Kernels

    def _step_by_kernels(self, target, composition, hypers, scaling, fill_masks) -> set:
        "Step all parameters. Return the names of new state"
        self.settle()
        if self.compilation is None or composition is not self.compilation.composition:
            self.plan = None
            self.compilation = Compilation(self.engine, composition)
        while True:
            try:
                plan = self._current_plan(target, composition, fill_masks)
                if self._repeats(plan, hypers, scaling): return set()
                self.captures.keep_for(plan)
                plan.zeroes = self.zeroes and may_store_zeros(plan, scaling)
                known = len(plan.launches)
                prepared = self.compilation.prepare(plan, hypers, scaling)
                is_known = len(plan.launches) == known
                made = self._run(plan, prepared, is_known, composition, hypers, scaling)
                break
            except Changed: self.plan = None
        if plan.zeroes: self.zeroed = zeroed_by_kernels(plan, prepared.programs)
        if scaling is NOT_SCALED:
            self.repeated = Repeated.of(plan, prepared, self.compilation.recorder, hypers)
        self._end(plan)
        return made

    def _repeats(self, plan, hypers, scaling) -> bool:
        "Repeat the last step, if this one differs in numbers and gradients only"
        repeated, self.repeated = self.repeated, None # until it has been done: an interrupt may break it off
        if repeated is None or self.zeroes or scaling is not NOT_SCALED or is_capturing(): return False
        try: is_done = repeated.step(plan, hypers)
        except BaseException:
            self.plan = None
            raise
        if is_done:
            self.repeated = repeated
            self._end(plan)
        return is_done

    def _end(self, plan):
        "Let go of the gradients, and tell autograd which parameters were written into"
        plan.release()
        plan.bump_versions(self.shards.close(plan.flat))

    def _current_plan(self, target, composition, fill_masks) -> Plan:
        "Return the current plan, rebuilt if it is no longer valid"
        if self.plan is not None and self.plan.is_unchanged(target, composition): return self.plan
        seen = self.shards.open(target)
        with without_collection():
            if self.plan is not None:
                try:
                    self.plan.refresh(seen, composition)
                    return self.plan
                except Changed: pass
            if fill_masks: fill_masks()
            self.plan = Plan(seen, composition, self.compilation.refusals)
        return self.plan

    def _run(self, plan, prepared:Prepared, is_known, composition, hypers, scaling) -> set:
        "Run launches, and the eager engine for the rest. Return the names of new state"
        capturing = is_capturing()
        if capturing: self.captures.check(plan, prepared, is_known, scaling)
        launches = [launch for launch, _ in prepared.launches]
        made, tables = set(), []
        try:
            with without_collection(): # they may make state
                for launch, indices in prepared.launches:
                    start = launch.capture if capturing else launch.start
                    tables.append(start([prepared.recordings[i] for i in indices], plan))
            pending = PendingSkip(scaling.found) if scaling.skip_on_device else None
            run_to_last_phase(launches)
            if plan.eager:
                made |= self._step_eagerly(composition, self._leftovers(plan, hypers), hypers, scaling)
            store(launches)
            self.pending = pending
            if capturing: self.captures.add(plan, prepared.launches, tables) # it isn't executed yet
            else: made |= self._count(plan, prepared)
            return made
        except OutputMismatch as e: # before anything has changed
            self.compilation.refusals.add(f"{e}")
            raise Changed from None
        except BaseException:
            self.plan = None # the step was interrupted: only the state shows how far it got
            raise

    def _count(self, plan, prepared:Prepared) -> set:
        "Store the numbers that a step computed in the states. Return the names of new state"
        made = set()
        for bucket, recording, program in zip(plan.buckets, prepared.recordings, prepared.programs):
            new = {*program.new, *recording.numbers} - bucket.numbers.keys()
            made |= new
            if new or program.new: self.plan = None # it doesn't have the new state
            if self.pending:
                states = [*bucket.states, *self.shards.of_optimizer(bucket.params)]
                self.pending.note(states, new, dict(bucket.numbers))
            bucket.put(recording.numbers)
        plan.put([r.numbers for r in prepared.recordings])
        return made

    def settle(self):
        "Find out whether a device skipped the last step."
        pending, self.pending = self.pending, None
        if pending and pending.settle(): self.plan = None

    # The eager engine

    def _eager_work(self, target, hypers) -> list:
        "List the parameters that have a gradient and aren't frozen, with their state and hyper-parameters"
        track(_params(target), target.tracked)
        states, tracked = target.state, target.tracked
        return [(p, states[p], h) for g, h in zip(target.param_groups, hypers) for p in g['params']
                if grad_of(p, tracked) is not None]

    def _leftovers(self, plan, hypers) -> list:
        "List what the plan leaves to the eager engine, as unsharded parameters"
        return [(*self.shards.original(p, state), hypers[i]) for p, state, i in plan.eager]

    def _step_eagerly(self, composition, work, hypers, scaling) -> set:
        """Step parameters with the eager engine. Return the names of new state, of steps with rollback only.

        A parameter, gradient layout or set of hyper-parameters that is new to it is stepped with rollback:
        if that fails, nothing has changed."""
        if not work or scaling.skips(): return set()
        if self.tried_for is not composition: self.tried_for, self.tried = composition, set()
        new = {(id(p), p.grad.layout) for p, *_ in work}.union(map(frozenset, hypers)) - self.tried
        made = set()
        try:
            if new: made = eager.try_step(composition, work, scaling)
            else: eager.step(composition, work, scaling)
        finally: torch.autograd.graph.increment_version([p for p, *_ in work])
        self.tried |= new
        return made

    # CUDA graphs

    def renew(self,
        hypers:list[dict] # Hyper-parameters of each group
    ):
        "Update a captured step's numbers for its next replay. Raises `CantRun`."
        self.settle()
        prepared = self.captures.renew(self.plan, self.compilation, hypers)
        self._count(self.plan, prepared)


def _params(target): return (p for g in target.param_groups for p in g['params'])
