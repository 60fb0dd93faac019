/* One look at all parameters of a step: is everything as the plan noted it, and where do the gradients lie?

   No header is needed, only functions that Python and libtorch export. An `at::Tensor` lies in the Python
   object of a tensor, `offset` bytes from its start. Nothing here keeps a reference: the plan does. */
typedef struct _object PyObject;
typedef long ssize;
typedef void *Tensor;
extern ssize PyList_Size(PyObject *);
extern PyObject *PyList_GetItem(PyObject *, ssize);
extern ssize PyDict_Size(PyObject *);
extern int PyDict_Next(PyObject *, ssize *, PyObject **, PyObject **);
extern int PyDict_SetItem(PyObject *, PyObject *, PyObject *);
extern PyObject *PyObject_GetAttr(PyObject *, PyObject *);
extern PyObject *PyObject_Type(PyObject *);
extern PyObject *PyObject_CallMethodObjArgs(PyObject *, PyObject *, ...);
extern int PyObject_RichCompareBool(PyObject *, PyObject *, int);
extern void Py_DecRef(PyObject *);
extern void PyErr_Clear(void);

enum { SAME, MOVED, OTHERS, CHANGED }; /* the worst is the result */
enum { UNKNOWN, LEFT, STEPPED };
enum { IS_EQUAL = 2 }; /* Py_EQ */

typedef struct { /* a parameter, in the order of the groups */
    PyObject *param, *type, *state, *requires_grad;
    PyObject *grad; /* of the last step, to be compared only; 0: it has none */
    void *ptr, *grad_ptr;
    ssize role; /* who steps it: of what is left to the eager engine, that looks at the rest itself */
    ssize dtype, grad_dtype, dim, shape, entries, numbers; /* the latter three: where they begin */
} Row;

typedef struct {
    ssize count, state_count, offset;
    Row *rows;
    PyObject *const *states; /* the dicts of all states, in order */
    const ssize *shapes; /* of each parameter its sizes, then its strides */
    PyObject *const *entries; /* of each state its length, then its values in order; ~k for number k */
    PyObject *const *numbers; /* of each bucket */
    PyObject *grad, *requires_grad, *layout, *is_neg; /* names */
    PyObject *no, *none, *tensor, *strided; /* False, None, torch.Tensor, torch.strided */
    int (*data_ptr)(Tensor, void **);
    int (*dim)(Tensor, ssize *);
    int (*sizes)(Tensor, ssize **);
    int (*strides)(Tensor, ssize **);
    int (*dtype)(Tensor, int *);
} Noted;

static Tensor tensor_in(const Noted *w, PyObject *o) { return (char *)o + w->offset; }

static int is_type(PyObject *o, PyObject *expected) {
    PyObject *type = PyObject_Type(o);
    Py_DecRef(type);
    return type == expected;
}

static int has(PyObject *o, PyObject *name, PyObject *expected) {
    PyObject *found = PyObject_GetAttr(o, name);
    if (!found) return 0;
    Py_DecRef(found);
    return found == expected;
}

static int is_laid_out(const Noted *w, const Row *row, PyObject *o, ssize expected) {
    const ssize *shape = w->shapes + row->shape;
    ssize dim, *sizes, *strides;
    int dtype;
    Tensor t = tensor_in(w, o);
    if (w->dtype(t, &dtype) || dtype != expected) return 0;
    if (w->dim(t, &dim) || dim != row->dim || w->sizes(t, &sizes) || w->strides(t, &strides)) return 0;
    for (ssize i = 0; i < dim; i++)
        if (sizes[i] != shape[i] || strides[i] != shape[dim + i]) return 0;
    return 1;
}

static int is_state_same(const Noted *w, const Row *row) {
    PyObject *const *entry = w->entries + row->entries;
    PyObject *name, *value;
    ssize at = 0;
    if (PyDict_Size(row->state) != (ssize)*entry++) return 0;
    while (PyDict_Next(row->state, &at, &name, &value)) {
        ssize expected = (ssize)*entry++;
        if (expected >= 0) {
            if (value != (PyObject *)expected) return 0;
        } else {
            PyObject *number = w->numbers[row->numbers + ~expected];
            if (value != number && PyObject_RichCompareBool(value, number, IS_EQUAL) != 1) return 0;
        }
    }
    return 1;
}

/* Is a tensor that is not the one of the last step a gradient of the same kind? */
static int is_gradient(const Noted *w, PyObject *g) {
    if (!has(g, w->layout, w->strided)) return 0;
    PyObject *neg = PyObject_CallMethodObjArgs(g, w->is_neg, (void *)0);
    if (!neg) return 0;
    Py_DecRef(neg);
    return neg == w->no;
}

static int look_at_gradient(const Noted *w, Row *row, PyObject *g) {
    void *ptr;
    int result = SAME;
    if (!is_type(g, w->tensor) || (g != row->grad && !is_gradient(w, g))) return CHANGED;
    if (!is_laid_out(w, row, g, row->grad_dtype) || w->data_ptr(tensor_in(w, g), &ptr)) return CHANGED;
    if (ptr != row->grad_ptr) result = MOVED;
    row->grad = g;
    row->grad_ptr = ptr;
    return result;
}

static int look_at_param(const Noted *w, Row *row, PyObject *p) {
    void *ptr;
    if (p != row->param || !is_type(p, row->type) || !has(p, w->requires_grad, row->requires_grad)) return CHANGED;
    PyObject *g = PyObject_GetAttr(p, w->grad);
    if (!g) return CHANGED;
    int is_there = g != w->none, differs = is_there != (row->grad != 0), result = differs ? OTHERS : SAME;
    if (row->role == UNKNOWN) result = differs ? CHANGED : SAME;
    else if (!is_there) row->grad = 0;
    else if (row->role == LEFT) row->grad = g;
    else {
        int moved = look_at_gradient(w, row, g);
        if (moved > result) result = moved;
        if (result != CHANGED && (!is_laid_out(w, row, p, row->dtype) || w->data_ptr(tensor_in(w, p), &ptr) ||
                                  ptr != row->ptr || !is_state_same(w, row))) result = CHANGED;
    }
    Py_DecRef(g);
    return result;
}

/* `params` is a list of the groups' lists, `states` the dict of all states. */
int look(Noted *w, PyObject *params, PyObject *states) {
    int result = SAME;
    ssize seen = 0, at = 0;
    PyObject *key, *state;
    while (PyDict_Next(states, &at, &key, &state))
        if (seen == w->state_count || state != w->states[seen++]) return CHANGED;
    if (seen != w->state_count) return CHANGED;
    seen = 0;
    for (ssize i = 0, n = PyList_Size(params); i < n; i++) {
        PyObject *group = PyList_GetItem(params, i);
        for (ssize j = 0, m = PyList_Size(group); j < m && result != CHANGED; j++, seen++) {
            PyObject *p = PyList_GetItem(group, j);
            int found = p && seen < w->count ? look_at_param(w, w->rows + seen, p) : CHANGED;
            if (found > result) result = found;
        }
    }
    if (seen != w->count) result = CHANGED;
    PyErr_Clear(); /* of whatever failed, a step is prepared by Python, which raises it again */
    return result;
}

/* Do the tensors lie where they were? */
int look_at_addresses(const Noted *w, PyObject *const *tensors, void *const *ptrs, ssize count) {
    void *ptr;
    for (ssize i = 0; i < count; i++)
        if (w->data_ptr(tensor_in(w, tensors[i]), &ptr) || ptr != ptrs[i]) return CHANGED;
    return SAME;
}

/* Let all of a list of dicts have `value` under `name`. */
int put(PyObject *dicts, PyObject *name, PyObject *value) {
    for (ssize i = 0, n = PyList_Size(dicts); i < n; i++)
        if (PyDict_SetItem(PyList_GetItem(dicts, i), name, value)) return -1; /* Python raises what it set */
    return 0;
}
