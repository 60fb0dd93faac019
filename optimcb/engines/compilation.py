"""Turn buckets of parameters into launches: record a composition, build programs from the recordings, and
kernels from the programs."""
from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple

from optimcb._compat.dtensors import sharding_of
from optimcb._compat.warn import warn
from optimcb.engines import c_kernels, foreach
from optimcb.engines.c_compiler import CantBuild
from optimcb.engines.grad_scaling import Scaling
from optimcb.engines.refusals import MAX_KERNELS, Refusals
from optimcb.engines.sharded import agree
from optimcb.tracing.bucket import Changed
from optimcb.tracing.program import Program, Unsupported
from optimcb.tracing.purity import asks_type
from optimcb.tracing.replay import Recorder
from optimcb.tracing.rng import RngSnapshot

__all__ = ['Compilation', 'Prepared', 'no_kernels']


TOLD = set() # types of devices of which the user knows that there are no kernels for them


def no_kernels(
    device:str # Type of a device
) -> str:
    "Say that the fused engine can't step parameters on a device."
    return f"there are kernels for the CPU and for CUDA, none for {device}."


class Prepared(NamedTuple):
    "The recordings, programs and launches of one step."
    recordings: list # One for each bucket
    programs: list # One for each bucket
    launches: list # Pairs of a launch and the indices of its buckets


class Compilation:
    """One composition on one engine: its programs by structure, and the parameters that kernels can't step.

    It is independent of optimizers, so several plans can share it. Raises `CantRun`."""
    def __init__(self,
        engine:str, # 'auto', 'fused' or 'foreach'
        composition # Composition to compile
    ):
        self.engine, self.composition = engine, composition
        self.refusals = Refusals(engine, composition)
        self.programs = {} # by structure
        self.agreed = set() # ids of programs that all processes can run
        self.has_kernels = True # False if one couldn't be built for a GPU: then the foreach engine is used
        self.recorder = Recorder(composition, typed=any(map(asks_type, composition.steppers)))
        self.shared = None # recordings of a step that takes several calls

    def share_recordings(self):
        """Start a step that calls `prepare` several times; it shares recordings until the next call of this
        method."""
        self.shared = {}

    def prepare(self,
        plan, # Plan of the parameters
        hypers:list[dict], # Hyper-parameters of each group
        scaling:Scaling # Scale and skip flag of a GradScaler
    ) -> Prepared:
        """Record a step of each bucket and find its launches; a step of known structure compiles nothing.

        Raises `Changed` if a refusal or a read attribute is new, so that the plan must be rebuilt, and
        `CantRun`."""
        recordings = self._record(plan, hypers, scaling)
        programs = [self._program_of(r, plan) for r in recordings]
        if plan.zeroes: programs = [self._with_zeros(o, b) for o, b in zip(programs, plan.buckets)]
        if recordings and len(self.programs) > MAX_KERNELS:
            self._refuse("the operations differ from step to step, and would be compiled "
                         f"{MAX_KERNELS} times and more. Loop a fixed number of times.")
        key = tuple(map(id, programs))
        launches = plan.launches.get(key)
        if launches is None: launches = plan.launches[key] = self._build(plan, programs, key)
        return Prepared(recordings, programs, launches)

    def _refuse(self, reason):
        "Leave all parameters to the eager engine. Always raises `Changed` or `CantRun`"
        self.refusals.add(reason)
        raise Changed

    def _record(self, plan, hypers, scaling) -> list:
        """Record a step of each bucket. Raises `Changed` if one can't be recorded, or if steppers read new
        attributes of parameters"""
        refusals, failures = self.refusals, []
        looked = set(refusals.looked)
        before = RngSnapshot() if not self.programs else None
        recordings = self.recorder.record(plan.buckets, hypers, looked, scaling, self.shared, failures)
        if looked != refusals.looked: # parameters that differ in these need separate buckets
            refusals.looked = looked
            raise Changed
        if failures:
            refusals.add_failures(failures, plan.buckets)
            raise Changed
        if before and before.restore_if_moved() and recordings:
            self._refuse("the steppers draw random numbers, other ones for each parameter.")
        return recordings

    def _program_of(self, recording, plan) -> Program:
        "Return the program of a recording, which keeps it, as hashing the key of a large one takes time"
        is_sharded = bool(plan.shardings)
        program = recording.programs.get(is_sharded)
        if program is not None: return program
        key = *recording.key, is_sharded
        program = self.programs.get(key)
        if program is None: program = self.programs[key] = Program(*key)
        recording.programs[is_sharded] = program
        return program

    def _with_zeros(self, program, bucket) -> Program:
        "Return the program that also zeroes gradients, if a kernel runs it; lists would need another pass"
        try: is_kernel = self.lowering(bucket.example.device) is not foreach
        except Unsupported: is_kernel = False # `_build` reports it
        return program.with_zeros(bucket.grad_dtype) if is_kernel else program

    def _build(self, plan, programs, key) -> list:
        """Make the launches of `programs`.

        If a kernel can't be built, fall back to a slower engine and raise `Changed`"""
        launches = failure = None
        try: launches = self._launches(plan, programs)
        except (Unsupported, CantBuild) as e: failure = e
        # not again for another plan with the same programs
        if plan.shardings and not self.agreed.issuperset(key):
            failure = agree(failure, plan.shardings)
            self.agreed.update(key)
        if not failure: return launches
        on_device = any(b.example.device.type != 'cpu' for b in plan.buckets)
        if self.engine == 'auto' and self.has_kernels and on_device:
            self.has_kernels = False
            warn(f"the foreach engine runs what the fused one can't: {failure}")
            raise Changed
        self._refuse(f"{failure}")

    def _launches(self, plan, programs) -> list:
        "Put buckets whose programs have the same structure, device and sharding into one launch"
        if self.composition.sums_over_all and programs and (plan.eager or not _same_rounds(programs)):
            raise Unsupported("some parameters can't be summed over with the others, by one kernel.")
        together, first = {}, 0 # `first` is the index of a bucket's first parameter in the plan
        for i, (b, program) in enumerate(zip(plan.buckets, programs)):
            key = program.key, b.example.device, sharding_of(b.example)
            together.setdefault(key, []).append((i, (b, program), first))
            first += len(b.places)
        res = []
        for (_, device, _), found in together.items():
            indices, members, firsts = map(list, zip(*found))
            res.append((self.lowering(device).Launch(members, firsts, plan), indices))
        return res

    def lowering(self, device):
        "Return the module that makes launches on a device. Raises `Unsupported`."
        if self.engine == 'foreach': return foreach
        if device.type == 'cpu': return c_kernels
        if device.type == 'cuda' and self.has_kernels:
            try: return import_module('optimcb.engines.triton_kernels') # Triton is loaded when it is needed
            except ImportError as e: raise Unsupported(f"Triton can't be imported ({e}).") from None
        if self.engine == 'fused': raise Unsupported(no_kernels(device.type))
        if device.type not in TOLD and device.type != 'cuda': # of Triton, `_build` has told
            TOLD.add(device.type)
            warn(f"the foreach engine runs the steps on {device.type}: {no_kernels(device.type)} "
                 "`engine='foreach'` does it without this warning.")
        return foreach


def _same_rounds(programs:Iterable) -> bool:
    "Do all programs that sum over all parameters do so in the same rounds?"
    return len({frozenset(round for round, _ in p.rounds) for p in programs if p.rounds}) <= 1
