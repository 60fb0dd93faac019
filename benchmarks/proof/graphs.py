"A training step in a CUDA graph, replayed with other numbers; and what must not corrupt."
import warnings
from functools import partial

import torch
import torch.nn.functional as F
import zoo

import optimcb as oc
from optimcb.bench.sets import parameters
from optimcb.engines.runner import CantRun
from proof.device import apart, shapes_of

__all__ = ['graphs']


def _trainer(make, device, lr=0.01):
    "A model, its optimizer, and a step of training"
    torch.manual_seed(0)
    first, second, last = torch.nn.Linear(20, 64), torch.nn.Linear(64, 33), torch.nn.Linear(33, 1)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Tanh(), last).to(device.type)
    x = torch.randn(32, 20, generator=torch.Generator().manual_seed(1)).to(device.type)
    opt = make(model.parameters(), lr=lr)
    def train():
        opt.zero_grad(set_to_none=True)
        F.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
        opt.step()
    return model, opt, train


def _captured(train):
    "A graph of a step, after three ordinary ones on another stream"
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3): train()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): train()
    return graph


def graphs(
    results, # Takes a result for each check
    device, # `Device`
    options # Options of the command
):
    "Capture a training step of every algorithm, and replay it with other learning rates."
    warnings.simplefilter('ignore')
    for name, algo in list(zoo.ALGORITHMS.items())[:3 if device.dry else None]:
        results.attempt(name, _replayed, partial(algo, **zoo.OPTIONS.get(name, {})), device)
    results.attempt('time of a replay', _time_of_replay, device)
    if device.dry: return
    for f in (_two_graphs, _without_numbers, _after_load, _capturable):
        results.attempt(f.__name__[1:], f, device)


def _replayed(make, device):
    res = []
    for is_captured in (False, not device.dry):
        model, opt, train = _trainer(make, device)
        try: graph = _captured(train) if is_captured else [train() for _ in range(3)]
        except CantRun as e: return dict(refused=str(e)[:200])
        for i in range(12):
            opt.set_hyper('lr', 0.01/(i + 1))
            if not is_captured: train()
            else:
                try: opt.before_replay()
                except CantRun as e: return dict(refused=str(e)[:200])
                graph.replay()
        res.append([p.detach().cpu() for p in model.parameters()])
    found = apart(res[1], res[0])
    return dict(apart=found, ok=found < 1e-4)


def _time_of_replay(device):
    "Of AdamW on ResNet-34's parameters, beside a step without a graph"
    ps = parameters(shapes_of('resnet34', device.dry), torch.float32, device.type)
    opt = oc.AdamW(ps, lr=1e-3, engine='fused')
    for _ in range(3): opt.step()
    res = dict(zip(('step', 'step_host'), device.times(opt.step, 20)))
    if device.dry: return res
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): opt.step()
    def replay():
        opt.before_replay()
        graph.replay()
    return res | dict(zip(('replay', 'replay_host'), device.times(replay, 20)))


def _weights(model): return [p.detach().clone() for p in model.parameters()]


def _moved(model, before): return max((p - q).abs().max().item() for p, q in zip(model.parameters(), before))


def _two_graphs(device):
    "`before_replay` serves all graphs of an optimizer: with a learning rate of 0, nothing moves"
    model, opt, train = _trainer(oc.SGD, device)
    first, second = _captured(train), _captured(train)
    before = _weights(model)
    opt.set_hyper('lr', 0.)
    for graph in (first, second):
        opt.before_replay()
        graph.replay()
    moved = _moved(model, before)
    return dict(moved=moved, ok=moved == 0)


def _without_numbers(device):
    "A replay that `before_replay` wasn't called for has the numbers of the capture"
    model, opt, train = _trainer(oc.SGD, device)
    graph, (other, _, ordinary) = _captured(train), _trainer(oc.SGD, device)
    for _ in range(4): ordinary()
    graph.replay()
    found = apart(_weights(model), _weights(other))
    return dict(apart=found, ok=found < 1e-5)


def _after_load(device):
    "After `load_state_dict` a replay is refused, and changes nothing"
    model, opt, train = _trainer(oc.AdamW, device)
    graph = _captured(train)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        opt.load_state_dict(opt.state_dict())
    before = _weights(model)
    try: opt.before_replay()
    except CantRun as e: refusal = str(e)
    graph.replay()
    moved = _moved(model, before)
    return dict(moved=moved, warned=len(said), ok=moved == 0 and len(said) == 1 and bool(refusal))


def _capturable(device):
    "Learning rate and step on the device: replayed with no call of ours"
    res = []
    for is_captured in (False, True):
        lr = torch.tensor(0.01, device='cuda')
        model, opt, train = _trainer(partial(oc.AdamW, capturable=True), device, lr)
        if is_captured: run = _captured(train).replay
        else:
            for _ in range(3): train()
            run = train
        for i in range(12):
            opt.param_groups[0]['lr'].fill_(0.01/(i + 1))
            run()
        res.append([p.detach().cpu() for p in model.parameters()])
    found = apart(res[1], res[0])
    return dict(apart=found, ok=found < 1e-4)
