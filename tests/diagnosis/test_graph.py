"The dataflow of a composition: which stepper reads and writes what, and what of it reaches the parameter."
import pytest

import optimcb as oc
from optimcb.composition.pipeline import Composition
from optimcb.diagnosis.graph import Dataflow
from optimcb.diagnosis.outcomes import steps_in_words
from optimcb.tracing.rehearsal import Rehearsal


def graph_of(cbs, steps=2):
    composition = Composition(cbs)
    rehearsal = Rehearsal(composition, {**composition.defaults, 'lr': 0.1, 'mom': 0.9, 'sqr_mom': 0.99, 'wd': 0.01})
    return Dataflow(rehearsal.step().effects for _ in range(steps))


def test_a_node_has_its_inputs_and_outputs_once():
    decay, grad_avg, *_ = graph_of(oc.Adam.cbs).nodes
    assert (decay.inputs, decay.outputs) == (['p', 'lr', 'wd'], ['p'])
    assert (grad_avg.inputs, grad_avg.outputs, len(grad_avg.effects)) == (['grad', 'mom', 'grad_avg'], ['grad_avg'], 2)


def test_what_lasts_is_read_before_and_after():
    "State is read by steppers before it in the next step, other values by those after it only"
    def read(p, grad_avg=None, update=None): return {'seen': p.data if grad_avg is None else p.data + grad_avg}
    graph = graph_of([read, oc.average_grad, read])
    first, makes, last = graph.nodes
    assert graph.readers(makes, 'grad_avg', lasts=True) == [first, last] and graph.readers(makes, 'grad_avg', lasts=False) == [last]


def test_what_reaches_the_parameter_is_live():
    graph = graph_of([oc.average_sqr_grad, oc.average_grad, oc.momentum_step])
    assert [o.label for o in graph.live] == ['average_grad', 'momentum_step']
    assert [a.stepper.label for a in graph.moves(graph.steps[-1])] == ['momentum_step']


def test_names_of_state_and_counters():
    graph = graph_of(oc.Adam.cbs)
    assert graph.state == {'p', 'grad', 'grad_avg', 'sqr_avg', 'step'} and graph.counters == {'step'}
    assert graph.written_before(0) == set() and graph.written_before(2) == {'p', 'grad_avg'}


@pytest.mark.parametrize('steps, words', [
    ([], 'in none of the first 12 steps'), (list(range(1, 13)), ''), ([3], 'in step 3'), (list(range(6, 13)), 'from step 6 on'), ([1, 2, 3], 'in steps 1 to 3'),
    ([2, 4, 6, 8, 10, 12], 'in every 2nd step'), ([3, 6, 9, 12], 'in every 3rd step'), ([1, 4, 7, 10], 'in step 1 and every 3rd after it'), ([1, 2, 5], '')])
def test_steps_in_words(steps, words): assert steps_in_words(steps, 12) == words
