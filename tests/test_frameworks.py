"""Lightning, transformers, accelerate and torch's own tools take these optimizers.

Each run is done with torch's AdamW and with ours, from the same weights on the same batches, and both must end at the same weights.
"""
import copy
import logging
import os
import pickle
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

import optimcb as oc
from optimcb import Optimizer

HYPERS = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
THEIRS, OURS = partial(torch.optim.AdamW, **HYPERS), partial(oc.AdamW, **HYPERS)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def data(dtype=torch.float64, n=96):
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TensorDataset(x.to(dtype), (2*x[:, :1] + x[:, 1:2]).to(dtype))


def batches(dtype=torch.float64, n=96): return DataLoader(data(dtype, n), 16)


def weights(model): return [p.detach().clone() for p in model.parameters()]
def apart(a, b): return max((x - y).abs().max().item() for x, y in zip(a, b))
def equal(a, b): return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def same_as_torch(run, tol=None):
    "What `run` returns, with torch's optimizer and with ours; the weights of both must be the same"
    theirs, ours = run(THEIRS), run(OURS)
    a, b = weights(theirs), weights(ours)
    assert len(a) == len(b) and apart(a, b) < (tol or TOLERANCE[a[0].dtype]), apart(a, b)
    return theirs, ours


@pytest.fixture(autouse=True)
def one_run_at_a_time():
    "accelerate keeps its settings for the process"
    yield
    if 'accelerate' in sys.modules:
        from accelerate.state import AcceleratorState, GradientState
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


# torch's own tools

def loop(make, forward=None, model=None, sched=None, epochs=2, before=None, after=None):
    "A plain loop, with the places where torch's tools go; returns the model"
    model = model or net()
    opt = make(model.parameters())
    sched = sched(opt) if sched else None
    torch.manual_seed(1)
    for _ in range(epochs):
        for x, y in batches():
            opt.zero_grad()
            mse_loss((forward or model)(x), y).backward()
            if before: before(model, opt)
            opt.step()
            if after: after(model, opt)
            if sched: sched.step()
    return model


def averaged(make, **kw):
    "The last half of a run at a constant rate, averaged, with statistics of the batches that fit"
    model = net()
    average = swa_utils.AveragedModel(model, **kw)
    steps = iter(range(100))
    loop(make, model=model, sched=lambda opt: swa_utils.SWALR(opt, swa_lr=0.05, anneal_epochs=3),
         after=lambda model, opt: average.update_parameters(model) if next(steps) > 5 else None)
    swa_utils.update_bn(batches(), average)
    model.load_state_dict(average.module.state_dict())
    return average


def in_checkpoints(make):
    model = net()
    return loop(make, model=model, forward=lambda x: torch.utils.checkpoint.checkpoint_sequential(model, 2, x, use_reentrant=False))


def functional(make):
    "The model is a function of its weights, and gradients come from `torch.func.grad`"
    model = net()
    ps = dict(model.named_parameters())
    opt = make(ps.items()) # with names
    for x, y in batches():
        grads = torch.func.grad(lambda ps, x=x, y=y: mse_loss(torch.func.functional_call(model.eval(), ps, x), y))({k: p.detach() for k, p in ps.items()})
        for k, p in ps.items(): p.grad = grads[k]
        opt.step()
    return model


def closures(make):
    "Several evaluations of each batch, as for LBFGS"
    model = net().eval()
    opt = make(model.parameters())
    for x, y in batches():
        def closure(x=x, y=y):
            opt.zero_grad()
            loss = mse_loss(model(x), y)
            loss.backward()
            return loss
        losses = [opt.step(closure).item() for _ in range(3)]
        assert losses[0] > losses[-1]
    return model


def chained(opt):
    return lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(opt, 0.1, total_iters=5),
                                          lr_scheduler.ExponentialLR(opt, 0.9)])
def in_turn(opt):
    return lr_scheduler.SequentialLR(opt, [lr_scheduler.ConstantLR(opt, 0.5, 3), lr_scheduler.CosineAnnealingWarmRestarts(opt, 4)], [3])


LOOPS = {
    'plain': loop, 'stochastic weight averaging': averaged, 'moving average': partial(averaged, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)),
    'clipped norm': partial(loop, before=lambda model, opt: nn.utils.clip_grad_norm_(model.parameters(), 0.3)),
    'clipped values': partial(loop, before=lambda model, opt: nn.utils.clip_grad_value_(model.parameters(), 0.05)),
    'chained schedulers': partial(loop, sched=chained), 'one scheduler after the other': partial(loop, sched=in_turn),
    'gradient checkpointing': in_checkpoints, 'functional': functional, 'closures': closures,
}


@pytest.mark.parametrize('run', LOOPS.values(), ids=LOOPS)
def test_loops(run):
    _, ours = same_as_torch(run)
    assert apart(weights(ours), weights(net())) > 1e-3
    assert (apart(weights(ours), weights(loop(OURS))) > 1e-6) == (run not in (loop, in_checkpoints)), 'the tool did something'


@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiled_model(backend):
    def run(make):
        model = net()
        return loop(make, model=model, forward=torch.compile(model, backend=backend))
    _, ours = same_as_torch(run)
    assert apart(weights(ours), weights(loop(OURS))) < 1e-10


def test_hooks_of_one_and_of_all_optimizers():
    called = []
    def note(name): return lambda opt, args, kwargs: called.append((name, type(opt)))
    handles = [register_optimizer_step_pre_hook(note('all, before')),
               register_optimizer_step_post_hook(note('all, after'))]
    def make(ps, of):
        opt = of(ps)
        opt.register_step_pre_hook(note('before'))
        opt.register_step_post_hook(note('after'))
        opt.register_step_pre_hook(lambda opt, args, kwargs: [p.grad.mul_(0.5) for g in opt.param_groups for p in g['params']] and None)
        return opt
    try: same_as_torch(lambda of: loop(partial(make, of=of), epochs=1))
    finally:
        for h in handles: h.remove()
    half = len(called)//2
    assert half == 4*6 and [n for n, _ in called[:half]] == [n for n, _ in called[half:]]
    assert {t for _, t in called[half:]} == {Optimizer}


def test_profiler_shows_the_step():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof: loop(OURS, epochs=1)
    names = {e.key: e.count for e in prof.key_averages()}
    assert names['Optimizer.step#Optimizer.step'] == 6


def test_safetensors(tmp_path):
    st = pytest.importorskip('safetensors.torch')
    model = net()
    opt = OURS(model.parameters())
    for x, y in batches():
        opt.zero_grad()
        mse_loss(model(x), y).backward()
        opt.step()
    st.save_model(model, tmp_path/'model.safetensors')
    other = net()
    st.load_model(other, tmp_path/'model.safetensors')
    assert equal(weights(model), weights(other))
    for states in (opt.state_dict()['state'], dict(enumerate(opt.state.values()))): # also those that lie in one piece of memory
        tensors = {f'{i}.{k}': v for i, s in states.items() for k, v in s.items() if isinstance(v, torch.Tensor)}
        st.save_file(tensors, tmp_path/'opt.safetensors')
        loaded = st.load_file(tmp_path/'opt.safetensors')
        assert len(loaded) == 2*len(weights(model)) and all(torch.equal(v, loaded[k]) for k, v in tensors.items())


# Lightning

@pytest.fixture
def lightning():
    pl = pytest.importorskip('lightning.pytorch')
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield pl


def one_cycle(opt): return lr_scheduler.OneCycleLR(opt, 0.02, total_steps=50) # cycles momentum, too


def module(pl, make, dtype=torch.float64):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.seen = net(dtype), []

        def loss(self, batch): return mse_loss(self.net(batch[0]), batch[1])

        def training_step(self, batch, i):
            loss = self.loss(batch)
            self.log('loss', loss)
            return loss

        def test_step(self, batch, i): self.log('test', self.loss(batch))

        def configure_optimizers(self):
            opt = make(self.parameters())
            return dict(optimizer=opt, lr_scheduler=dict(scheduler=one_cycle(opt), interval='step'))
    return Module()


def fit(pl, model, epochs=2, precision='64-true', path=None, weights_only=True, logger=False,
        checkpoint=False, callbacks=(), **kwargs):
    "Train `model` and test it"
    trainer = pl.Trainer(max_epochs=epochs, accelerator='cpu', devices=1, precision=precision, logger=logger, enable_checkpointing=checkpoint,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks], **kwargs)
    loader = batches(torch.float64 if precision == '64-true' else torch.float32)
    torch.manual_seed(1)
    trainer.fit(model, loader, ckpt_path=path, weights_only=weights_only)
    model.logged = dict(trainer.callback_metrics)
    model.tested = trainer.test(model, loader, verbose=False)[0]['test']
    return model


@pytest.mark.parametrize('precision, tol, kwargs', [
    ('64-true', None, {}), ('64-true', None, dict(gradient_clip_val=0.1, accumulate_grad_batches=3)),
    ('64-true', None, dict(gradient_clip_val=0.05, gradient_clip_algorithm='value')), ('32-true', None, {}),
    ('bf16-mixed', 1e-5, {})], ids=str)
def test_lightning(lightning, precision, tol, kwargs):
    dtype = torch.float64 if precision == '64-true' else torch.float32
    theirs, ours = same_as_torch(lambda make: fit(lightning, module(lightning, make, dtype),
                                                  precision=precision, **kwargs), tol)
    assert ours.tested == pytest.approx(theirs.tested, abs=tol or 1e-6) and ours.trainer.global_step == theirs.trainer.global_step == 12 // kwargs.get('accumulate_grad_batches', 1)
    assert apart(weights(ours), weights(net(dtype))) > 1e-3


def test_lightning_with_a_scaler_that_skips_steps(lightning):
    def run(make):
        scaler = torch.amp.GradScaler('cpu', init_scale=2.**20)
        model = module(lightning, make, torch.float32)
        model.optimizer_step = lambda epoch, i, opt, closure: [opt.step(closure=closure), model.seen.append((scaler.get_scale(), weights(model)[0][0, 0].item()))]
        return fit(lightning, model, precision=None, plugins=[lightning.plugins.MixedPrecision('16-mixed', 'cpu', scaler)], gradient_clip_val=0.5)
    theirs, ours = same_as_torch(run, 1e-4)
    scales, values = zip(*ours.seen)
    assert scales == tuple(s for s, _ in theirs.seen) and scales[0] == scales[-1]*2**(len(set(scales))-1) and 2 < len(set(scales)) < 8
    assert len(set(values)) == 12 - len(set(scales)) + 1 # those that are skipped leave the weights


def test_lightning_sends_the_closures_loss_and_calls_hooks(lightning):
    def run(make):
        model, called = module(lightning, make), []
        def optimizer_step(epoch, i, opt, closure):
            called.append(round(float(opt.step(closure)), 6))
        model.optimizer_step = optimizer_step
        model.on_before_zero_grad = lambda opt: called.append('before zero_grad')
        model.on_before_optimizer_step = lambda opt: called.append(('before step', all(p.grad is not None for p in model.parameters())))
        model.on_before_backward = lambda loss: called.append(('before backward', round(loss.item(), 6)))
        model.called = called
        return fit(lightning, model, epochs=1)
    theirs, ours = same_as_torch(run)
    assert ours.called == theirs.called and len(ours.called) == 4*6
    assert ours.called[3] == ours.called[1][1] and ours.logged['loss'].item() == pytest.approx(theirs.logged['loss'].item(), rel=1e-10)


def test_lightning_by_hand_with_two_optimizers(lightning):
    def run(make):
        class Two(type(module(lightning, make))):
            automatic_optimization = False
            def configure_optimizers(self):
                opts = [make(self.net[:2].parameters()), make(self.net[2:].parameters())]
                return opts, [one_cycle(opts[0]), lr_scheduler.StepLR(opts[1], 4)]
            def training_step(self, batch, i):
                first, second = self.optimizers()
                first.zero_grad()
                self.manual_backward(self.loss(batch))
                self.clip_gradients(first, gradient_clip_val=0.1)
                first.step()
                def closure():
                    second.zero_grad()
                    loss = self.loss(batch)
                    self.manual_backward(loss)
                    return loss
                if i % 2:
                    with second.toggle_model(): self.seen.append(second.step(closure=closure).item())
                for s in self.lr_schedulers(): s.step()
        return fit(lightning, Two())
    theirs, ours = same_as_torch(run)
    assert ours.seen == pytest.approx(theirs.seen, rel=1e-10) and len(ours.seen) == 6


@pytest.mark.parametrize('step', [6, 12])
def test_lightning_resumes_exactly(lightning, tmp_path, step):
    saved = lightning.callbacks.ModelCheckpoint(tmp_path, filename='{step}', save_top_k=-1)
    whole = fit(lightning, module(lightning, OURS), epochs=3)
    fit(lightning, module(lightning, OURS), checkpoint=True, callbacks=[saved])
    resumed = fit(lightning, module(lightning, OURS), epochs=3, path=tmp_path/f'step={step}.ckpt')
    assert equal(weights(whole), weights(resumed)) and whole.trainer.global_step == resumed.trainer.global_step == 18


def test_lightning_averages_weights_and_monitors_rates(lightning, tmp_path):
    def run(make):
        def grouped(ps):
            ps = list(ps)
            return make([dict(params=ps[:2], name='body'), dict(params=ps[2:], lr=0.02)])
        monitor = lightning.callbacks.LearningRateMonitor(logging_interval='step', log_momentum=True,
                                                          log_weight_decay=True)
        average = lightning.callbacks.StochasticWeightAveraging([0.03, 0.05], swa_epoch_start=2, annealing_epochs=2)
        logger = lightning.loggers.CSVLogger(tmp_path)
        model = fit(lightning, module(lightning, grouped), epochs=5, logger=logger, log_every_n_steps=1,
                    callbacks=[monitor, average])
        model.monitor = monitor
        return model
    theirs, ours = same_as_torch(run)
    for last in ('last_momentum_values', 'last_weight_decay_values'):
        assert [*getattr(ours.monitor, last).values()] == pytest.approx([*getattr(theirs.monitor, last).values()])
    theirs, ours = theirs.monitor.lrs, ours.monitor.lrs
    assert list(ours) == ['lr-Optimizer/body', 'lr-Optimizer/pg2'] and list(ours.values()) == list(theirs.values())
    assert ours['lr-Optimizer/pg2'][0] == pytest.approx(0.02/25) and ours['lr-Optimizer/pg2'][-1] == 0.05


def test_lightning_with_a_stepper_of_ones_own(lightning):
    "It clips as the trainer does with torch's optimizer"
    def clip_norm(p, max_norm=0.1):
        total = yield p.grad.pow(2).sum()
        p.grad = p.grad * (max_norm / (total.sqrt() + 1e-6)).clamp(max=1)
    clipped = partial(oc.AdamW.insert(clip_norm, before=0), **HYPERS)
    theirs = fit(lightning, module(lightning, THEIRS), gradient_clip_val=0.1)
    ours = fit(lightning, module(lightning, clipped))
    assert apart(weights(ours), weights(theirs)) < 1e-10
    assert apart(weights(ours), weights(fit(lightning, module(lightning, OURS)))) > 1e-4


@pytest.mark.parametrize('drop', [True, False])
def test_lightning_where_a_layer_is_not_always_used(lightning, drop):
    "`zero_grad()` fills with zeros, as fastai's, so that weight decay and momentum go on; with `set_to_none=True` parameters without a gradient rest, as in torch"
    def run(make):
        class Module(type(module(lightning, make))):
            def training_step(self, batch, i):
                return self.loss(batch) if i % 2 else self.net[:3](batch[0]).pow(2).mean()
            def optimizer_zero_grad(self, epoch, i, opt): opt.zero_grad(set_to_none=drop)
        return fit(lightning, Module())
    _, ours = same_as_torch(run)
    rests = fit(lightning, module(lightning, OURS))
    assert apart(weights(ours), weights(rests)) > 1e-4


def test_fabric(lightning, tmp_path):
    from lightning.fabric import Fabric
    def run(make):
        fabric, model = Fabric(accelerator='cpu', devices=1), net(torch.float32)
        opt = make(model.parameters())
        state = dict(zip(('model', 'opt'), fabric.setup(model, opt)))
        for i, (x, y) in enumerate(fabric.setup_dataloaders(batches(torch.float32))):
            state['opt'].zero_grad()
            fabric.backward(mse_loss(state['model'](x), y))
            fabric.clip_gradients(state['model'], state['opt'], max_norm=0.5)
            state['opt'].step()
            if i == 3:
                fabric.save(tmp_path/'state.ckpt', state)
                model = net(torch.float32)
                state = dict(zip(('model', 'opt'), fabric.setup(model, make(model.parameters()))))
                fabric.load(tmp_path/'state.ckpt', state)
        return model
    _, ours = same_as_torch(run)
    assert apart(weights(ours), weights(net(torch.float32))) > 1e-3


# accelerate

def accelerated(make, epochs=(0, 2), accumulate=1, drop=0.1, save=None, load=None, **kwargs):
    "A loop as accelerate's documentation has it; returns the bare model. Everything is saved to `save` after the first epoch"
    from accelerate import Accelerator, DataLoaderConfiguration
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate,
                              dataloader_config=DataLoaderConfiguration(split_batches=True), **kwargs)
    dtype = torch.float32 if kwargs else torch.float64
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(drop), nn.Linear(16, 1)).to(dtype)
    opt = make(model.parameters())
    model, opt, loader, sched = accelerator.prepare(model, opt, batches(dtype), one_cycle(opt))
    torch.manual_seed(1)
    if load: accelerator.load_state(load)
    for epoch in range(*epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(mse_loss(model(x), y))
                if accelerator.sync_gradients: accelerator.clip_grad_norm_(model.parameters(), 0.5)
                opt.step()
                sched.step()
                opt.zero_grad()
        if save and epoch == 0: accelerator.save_state(save)
    return accelerator.unwrap_model(model)


@pytest.mark.parametrize('kwargs, tol', [({}, None), (dict(accumulate=2), None), (dict(mixed_precision='bf16'), 1e-4), (dict(mixed_precision='fp16'), 1e-4)], ids=str)
def test_accelerate(kwargs, tol):
    pytest.importorskip('accelerate')
    same_as_torch(partial(accelerated, **kwargs), tol)


def test_accelerate_resumes_exactly(tmp_path):
    pytest.importorskip('accelerate')
    st = pytest.importorskip('safetensors.torch')
    whole = accelerated(OURS, save=tmp_path)
    one_epoch = accelerated(OURS, epochs=(0, 1))
    resumed = accelerated(OURS, epochs=(1, 2), load=tmp_path)
    assert equal(weights(whole), weights(resumed)) and apart(weights(whole), weights(one_epoch)) > 1e-3
    saved = st.load_file(tmp_path/'model.safetensors')
    assert all(torch.equal(saved[k], v) for k, v in one_epoch.state_dict().items())


def in_process(folder):
    "What each of two processes does"
    model = accelerated(OURS, accumulate=2, drop=0)
    torch.save(weights(model), Path(folder)/f"{torch.distributed.get_rank()}.pt")


def test_accelerate_with_two_processes(tmp_path):
    pytest.importorskip('accelerate')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, '-W', 'ignore', __file__, tmp_path], env=env, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = torch.load(tmp_path/'0.pt'), torch.load(tmp_path/'1.pt')
    assert equal(first, second) and apart(first, weights(accelerated(OURS, accumulate=2, drop=0))) < 1e-10


def test_accelerate_skips_a_step_that_overflowed():
    pytest.importorskip('accelerate')
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    Accelerator(cpu=True)
    def run(make, copied=lambda o: o):
        model, scaler, skipped = net(), torch.amp.GradScaler('cpu', init_scale=8., growth_interval=2), []
        opt = AcceleratedOptimizer(make(model.parameters()), scaler=scaler)
        for i, (x, y) in enumerate(batches()):
            if i == 4: model, opt = copied((model, opt))
            opt.zero_grad()
            opt.scaler.scale(mse_loss(model(x), y)).backward()
            if i in (1, 5): next(model.parameters()).grad[0, 0] = float('inf')
            before = weights(model)
            opt.step()
            skipped.append(opt.step_was_skipped)
            assert skipped[-1] == equal(weights(model), before)
        assert skipped == [False, True, False, False, False, True] and opt.scaler.get_scale() == 4.
        return model
    _, ours = same_as_torch(run)
    assert equal(weights(ours), weights(run(OURS, copy.deepcopy)))
    assert equal(weights(ours), weights(run(OURS, lambda o: pickle.loads(pickle.dumps(o)))))


# transformers

@pytest.fixture
def hf():
    transformers = pytest.importorskip('transformers')
    pytest.importorskip('accelerate')
    transformers.logging.set_verbosity_error()
    return transformers


def classifier(hf, dtype=torch.float64):
    torch.manual_seed(0)
    return hf.BertForSequenceClassification(hf.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                                          max_position_embeddings=8)).to(dtype)


def trained(hf, folder, make=None, kind=None, sched=None, resume=None, dtype=torch.float64, **kwargs):
    "A classifier after a run of `Trainer` with `make(parameters)`, or `optimizer_cls_and_kwargs=kind`"
    ids = torch.randint(50, (64, 6), generator=torch.Generator().manual_seed(0))
    model = classifier(hf, dtype)
    opt = make(model.parameters()) if make else None
    args = hf.TrainingArguments(folder, **{**dict(use_cpu=True, report_to=[], disable_tqdm=True, max_steps=4, per_device_train_batch_size=8, save_strategy='no', logging_steps=1,
                                                 learning_rate=1e-2, weight_decay=0.1, adam_beta2=0.95), **kwargs})
    trainer = hf.Trainer(model, args, train_dataset=[dict(input_ids=i, labels=(i[0] > 25).long()) for i in ids], optimizer_cls_and_kwargs=kind,
                         optimizers=(opt, sched(opt) if sched else None))
    trainer.train(resume_from_checkpoint=resume)
    model.trainer, model.rates = trainer, [h['learning_rate']
                                           for h in trainer.state.log_history if 'learning_rate' in h]
    return model


@pytest.mark.parametrize('tol, rates, kwargs', [
    (None, [0, 5e-3, 1e-2, 5e-3], dict(gradient_accumulation_steps=2, max_grad_norm=0.5, lr_scheduler_type='cosine', warmup_steps=2)),
    (1e-3, [0, 1e-2, 2/3*1e-2, 1/3*1e-2], dict(bf16=True, dtype=torch.float32, own_schedule=True))], ids=['float64', 'bf16'])
def test_trainer(hf, tmp_path, tol, rates, kwargs):
    sched = partial(hf.get_linear_schedule_with_warmup, num_warmup_steps=1,
                    num_training_steps=4) if kwargs.pop('own_schedule', False) else None
    theirs, ours = same_as_torch(lambda make: trained(hf, tmp_path, make, sched=sched, **kwargs), tol)
    assert ours.rates == theirs.rates == pytest.approx(rates)
    assert apart(weights(ours), weights(classifier(hf, ours.dtype))) > 1e-2
    opt = ours.trainer.optimizer
    assert type(opt).__name__ == 'AcceleratedOptimizer' and type(opt.optimizer) is Optimizer


def test_trainer_makes_the_optimizer(hf, tmp_path):
    "From a class; it makes groups with and without decay, in torch's words"
    hypers = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    recipe = oc.AdamW # a partial of a class, which is called without parameters first, as any that is no class
    kinds = [(torch.optim.AdamW, hypers), (recipe.func, {**recipe.keywords, 'lr': 1e-2, 'sqr_mom': 0.95}), (Optimizer, dict(cbs=recipe.cbs, **hypers)),
             (recipe, hypers), (partial(recipe, betas=(0.9, 0.95), eps=1e-8), dict(lr=1e-2)), (partial(recipe, **hypers), {})]
    theirs, *ours = [trained(hf, tmp_path, kind=(cls, dict(kw))) for cls, kw in kinds]
    for o in ours:
        assert apart(weights(o), weights(theirs)) < 1e-10
        assert [(g['wd'], len(g['params'])) for g in o.trainer.optimizer.param_groups] == [(g['weight_decay'], len(g['params'])) for g in theirs.trainer.optimizer.param_groups]


def test_trainer_resumes_exactly(hf, tmp_path):
    whole = trained(hf, tmp_path, OURS, max_steps=6, save_strategy='steps', save_steps=3)
    resumed = trained(hf, tmp_path/'again', OURS, max_steps=6, resume=str(tmp_path/'checkpoint-3'))
    assert equal(weights(whole), weights(resumed)) and resumed.rates == whole.rates


@pytest.mark.parametrize('name, kwargs', dict(
    constant_with_warmup=dict(num_warmup_steps=3), cosine_with_hard_restarts=dict(num_warmup_steps=3, num_training_steps=12, num_cycles=2),
    inverse_sqrt=dict(num_warmup_steps=3), linear=dict(num_warmup_steps=3, num_training_steps=12), polynomial=dict(num_warmup_steps=3, num_training_steps=12),
    wsd=dict(num_warmup_steps=3, num_decay_steps=5, num_training_steps=12)).items())
def test_schedules_of_transformers(hf, name, kwargs):
    of = dict(constant_with_warmup=hf.get_constant_schedule_with_warmup, cosine_with_hard_restarts=hf.get_cosine_with_hard_restarts_schedule_with_warmup,
              inverse_sqrt=hf.get_inverse_sqrt_schedule, linear=hf.get_linear_schedule_with_warmup, polynomial=hf.get_polynomial_decay_schedule_with_warmup,
              wsd=hf.get_wsd_schedule)
    _, ours = same_as_torch(lambda make: loop(make, sched=lambda opt: of[name](opt, **kwargs)))
    assert apart(weights(ours), weights(loop(OURS))) > 1e-6


if __name__ == '__main__':
    from accelerate import debug_launcher
    debug_launcher(in_process, (sys.argv[1],), num_processes=2)
