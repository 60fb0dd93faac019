/* One look at all parameters of a step: is everything as the plan noted it, and where do the gradients lie?

   No header is needed, only functions that Python and libtorch export. An `at::Tensor` is the address of what
   libtorch has of a tensor, its `TensorImpl`. It lies in the Python object of a tensor, `offset` bytes from its
   start. A `TensorImpl` has its dispatch keys in a word: they differ for whatever isn't plain numbers in memory,
   as sparse or negated tensors. Nothing here keeps a reference: the plan does. */
typedef struct _object PyObject;
typedef long ssize;
typedef void *const *Tensor;
extern ssize PyList_Size(PyObject *);
extern PyObject *PyList_GetItem(PyObject *, ssize);
extern ssize PyDict_Size(PyObject *);
extern int PyDict_Next(PyObject *, ssize *, PyObject **, PyObject **);
extern int PyDict_SetItem(PyObject *, PyObject *, PyObject *);
extern PyObject *PyObject_Type(PyObject *);
extern int PyObject_RichCompareBool(PyObject *, PyObject *, int);
extern void Py_DecRef(PyObject *);
extern void PyErr_Clear(void);

enum { SAME, MOVED, OTHERS, CHANGED }; /* the worst is the result */
enum { UNKNOWN, LEFT, STEPPED };
enum { IS_EQUAL = 2 }; /* Py_EQ */

typedef struct { ssize keys, dtype; } Kind; /* of a tensor */

typedef struct { /* a parameter, in the order of the groups */
    PyObject *param, *type, *state;
    ssize requires_grad;
    void *ptr;
    ssize role; /* who steps it: of what is left to the eager engine, that looks at the rest itself */
    Kind kind, grad_kind;
    ssize dim, shape, entries, numbers; /* the latter three: where they begin */
} Row;

typedef struct {
    ssize count, state_count, offset, keys_at;
    const Row *rows;
    PyObject *const *states; /* the dicts of all states, in order */
    const ssize *shapes; /* of each parameter its sizes, then its strides */
    PyObject *const *entries; /* of each state its length, then its values in order; ~k for number k */
    PyObject *const *numbers; /* of each bucket */
    ssize *has_grad; /* has each parameter a gradient, as of the last look? */
    void **grad_ptrs; /* and where did it lie, when it last had one? */
    const void *undefined; /* what a tensor without a gradient has in its place */
    Tensor (*grad)(const void *);
    _Bool (*requires_grad)(const void *);
    void (*bump_version)(Tensor);
    int (*data_ptr)(Tensor, void **);
    int (*dim)(Tensor, ssize *);
    int (*sizes)(Tensor, ssize **);
    int (*strides)(Tensor, ssize **);
    int (*dtype)(Tensor, int *);
} Noted;

static Tensor tensor_in(const Noted *w, PyObject *o) { return (Tensor)((char *)o + w->offset); }

static int is_type(PyObject *o, PyObject *expected) {
    PyObject *type = PyObject_Type(o);
    Py_DecRef(type);
    return type == expected;
}

/* Is a tensor of this kind, and laid out as the row says? */
static int is_as_noted(const Noted *w, const Row *row, Tensor t, const Kind *kind) {
    const ssize *shape = w->shapes + row->shape;
    ssize dim, *sizes, *strides;
    int dtype;
    if (((const ssize *)*t)[w->keys_at] != kind->keys || w->dtype(t, &dtype) || dtype != kind->dtype) return 0;
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

static int look_at_gradient(const Noted *w, const Row *row, Tensor g, void **noted) {
    void *ptr;
    if (!is_as_noted(w, row, g, &row->grad_kind) || w->data_ptr(g, &ptr)) return CHANGED;
    int result = ptr == *noted ? SAME : MOVED;
    *noted = ptr;
    return result;
}

static int look_at_param(const Noted *w, ssize i, PyObject *p) {
    const Row *row = w->rows + i;
    void *ptr;
    if (p != row->param || !is_type(p, row->type)) return CHANGED;
    Tensor t = tensor_in(w, p), g = w->grad(*t);
    if (w->requires_grad(*t) != row->requires_grad) return CHANGED;
    int has_grad = *g != w->undefined, result = has_grad == w->has_grad[i] ? SAME : OTHERS;
    if (row->role == UNKNOWN) return result == SAME ? SAME : CHANGED;
    w->has_grad[i] = has_grad;
    if (row->role == LEFT || !has_grad) return result;
    int moved = look_at_gradient(w, row, g, w->grad_ptrs + i);
    if (moved == CHANGED || !is_as_noted(w, row, t, &row->kind) || w->data_ptr(t, &ptr) || ptr != row->ptr ||
        !is_state_same(w, row)) return CHANGED;
    return moved > result ? moved : result;
}

enum { AHEAD = 2 }; /* parameters: as many again from one object to the next */

static void *word(const void *o, int i) { return ((void *const *)o)[i]; }

static void fetch_lines(const void *o, int count) {
    for (int i = 0; i < count; i++) __builtin_prefetch((const char *)o + 64*i);
}

/* Most of a look is waiting for memory: let that of later parameters be on its way, from object to object.
   What is fetched is never used, so nothing depends on how Python and libtorch lay it out. */
static void fetch(const Noted *w, ssize i) {
    if (i + 4*AHEAD >= w->count) return;
    const Row *row = w->rows + i + 4*AHEAD;
    fetch_lines(row->param, 1);
    if (row->state) fetch_lines(row->state, 1);
    row -= AHEAD;
    fetch_lines(*tensor_in(w, row->param), 4);
    if (row->state) fetch_lines(word(row->state, 4), 2); /* its names and values */
    row -= AHEAD;
    const void *impl = *tensor_in(w, row->param); /* its storage, gradient and version */
    for (int j = 2; j < 6; j++) fetch_lines(word(impl, j), 1);
    row -= AHEAD;
    const void *g = *w->grad(*tensor_in(w, row->param));
    fetch_lines(g, 4);
}

/* `params` is a list of the groups' lists, `states` the dict of all states. */
int look(const Noted *w, PyObject *params, PyObject *states) {
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
            fetch(w, seen);
            int found = p && seen < w->count ? look_at_param(w, seen, p) : CHANGED;
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

/* Note that the parameters at `places` were written into: autograd asks for their versions. */
void bump_versions(const Noted *w, const ssize *places, ssize count) {
    for (ssize i = 0; i < count; i++) w->bump_version(tensor_in(w, w->rows[places[i]].param));
}

/* Let the states of the parameters at `places`, up to the end of each bucket, have its value under `name`. */
int put(const Noted *w, const ssize *places, const ssize *ends, PyObject *const *values, ssize count,
        PyObject *name) {
    for (ssize b = 0, i = 0; b < count; i = ends[b++])
        for (; values[b] && i < ends[b]; i++)
            if (PyDict_SetItem(w->rows[places[i]].state, name, values[b])) return -1; /* Python raises it */
    return 0;
}
