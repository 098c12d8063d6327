/* gpt.c - trains a byte-level GPT whose state need not fit in memory.
 *
 * A GPT with pre-norm blocks, causal attention and a GELU MLP learns to predict
 * the next byte of a text: float32, forward, backward and Adam, in plain C.
 * Every weight, gradient, Adam moment and saved activation is a terrace tensor.
 * A function names the tensors it needs and how (read, changed, produced),
 * acquires them as one set, computes, and releases them; meanwhile terrace
 * brings what was named next. With --host-limit smaller than the sum of all
 * tensors the rest lives on disk, and the results stay the same to the bit.
 *
 * What lives how long:
 *   weights, moments  always; updated in the backward pass, matrix by matrix
 *   gradients         from the product that makes them to the Adam update that
 *                     uses them up, so one set serves all layers
 *   activations       from a layer's forward pass to its backward pass; then
 *                     their tensors are destroyed: dead bytes are never written
 *   scratch           plain malloc: twelve numbers per token and unit of width,
 *                     and the matrix product's packing buffers
 *
 * The same trainer is three programs: gpt computes on the CPU, gpt_cuda on an
 * NVIDIA device, in whose memory tensors are used then, with --hbm-limit of it;
 * what does not fit lives in host memory, and below that on disk. gpt_mixed
 * computes wherever placement rules put weights and optimizer state: on devices
 * of two vendors, unless told otherwise.
 *
 * Read gpt_input.h (arguments, data), gpt_model.h (tensors, forward, backward),
 * then this: a gradient check, progress, main. The arithmetic is behind
 * gpt_compute.h.
 */
#define _DEFAULT_SOURCE

#include "gpt_model.h"

/* ---- gradient check ---------------------------------------------------- */

static void weight_shift(model *g, parameter *p, size_t i, float by)
{
    hold h = {.at = g->host};
    hold_add(&h, p->weight, TERRACE_WRITE);
    hold_acquire(&h);
    hold_at(&h, 0)[i] += by;
    hold_release(&h);
}

/* Compares the four largest gradients of a parameter with difference
 * quotients; `user` is the worst relative error so far. */
static void gradient_check(model *g, parameter *p, void *user)
{
    const float by = 1.0f / 512;
    size_t n = p->in * p->out;
    double *worst = user;
    g->probe = p;
    g->probe_gradient = need(malloc(n * sizeof(float)));
    forward(g);
    backward(g);
    mean_loss(g); /* until that is done */
    for (int trial = 0; trial < 4; trial++) {
        size_t at = 0;
        for (size_t i = 1; i < n; i++)
            if (fabsf(g->probe_gradient[i]) > fabsf(g->probe_gradient[at]))
                at = i;
        double expected = g->probe_gradient[at];
        weight_shift(g, p, at, by);
        forward(g);
        double up = mean_loss(g);
        weight_shift(g, p, at, -2 * by);
        forward(g);
        double down = mean_loss(g);
        weight_shift(g, p, at, by);
        double found = (up - down) / (2 * (double)by);
        double error = fabs(found - expected) / fmax(fabs(expected), 1e-3);
        printf("%-24s [%6zu]  backward %+.6f  difference quotient %+.6f  error %.1e\n", p->label,
               at, expected, found, error);
        if (!(error <= *worst))
            *worst = error;
        g->probe_gradient[at] = 0.0f;
    }
    free(g->probe_gradient);
    g->probe = NULL;
}

static int check_gradients(model *g, const corpus *text)
{
    double worst = 0.0;
    batch_pick(g, text, 0);
    model_each(g, gradient_check, &worst);
    printf("gradients %s: the largest relative error is %.1e\n", worst < 0.01 ? "agree" : "differ",
           worst);
    return worst < 0.01 ? 0 : 1;
}

/* ---- progress and results ---------------------------------------------- */

/* What one step did; and a sum over tiers of one class. */
typedef struct record {
    double loss, seconds, stall;
    uint64_t read, written;
} record;

typedef struct tier_sum {
    uint64_t limit, used, peak, in, out;
    const char *name, *engine, *engine_reason, *location, *limit_reason;
} tier_sum;

static tier_sum tier_class(const model *g, const char *tier_class)
{
    tier_sum sum = {.name = "none", .engine = "none", .engine_reason = "", .location = "",
                    .limit_reason = ""};
    terrace_tier_statistics s = {.size = sizeof s};
    for (terrace_tier t = 0; terrace_tier_stats(g->m, t, &s) == 0; t++) {
        if (strcmp(s.tier_class, tier_class) != 0)
            continue;
        sum.limit += s.limit;
        sum.used += s.used;
        sum.peak += s.peak;
        sum.in += s.in_bytes;
        sum.out += s.out_bytes;
        sum.name = s.name;
        sum.engine = s.engine ? s.engine : "none";
        sum.engine_reason = s.engine_reason ? s.engine_reason : "";
        sum.location = s.location ? s.location : "";
        sum.limit_reason = s.limit_reason ? s.limit_reason : "";
    }
    return sum;
}

/* Bytes moved into the memory where it is computed, and out of it, so far. */
static void moved(const model *g, uint64_t *in, uint64_t *out)
{
    if (ON_DEVICE) {
        tier_sum device = tier_class(g, "device");
        *in = device.in;
        *out = device.out;
    } else {
        terrace_statistics s = statistics(g);
        *in = s.fill_bytes;
        *out = s.writeback_bytes;
    }
}

static void progress(const model *g, long step, const record *r)
{
    int tty = isatty(STDOUT_FILENO);
    printf("%sstep %3ld/%ld  loss %.4f  %5.0f tokens/s  %s %5.0f MiB  read %5.0f MiB  "
           "written %5.0f MiB  stalled %.2f s%s",
           tty ? "\r" : "", step + 1, g->cfg.steps, r->loss, (double)g->tokens / r->seconds,
           COMPUTE_CLASS, (double)tier_class(g, COMPUTE_CLASS).used / MIB, (double)r->read / MIB,
           (double)r->written / MIB, r->stall, tty && step + 1 < g->cfg.steps ? "\033[K" : "\n");
    fflush(stdout);
}

static void greet(const model *g)
{
    tier_sum host = tier_class(g, "host"), disk = tier_class(g, "disk");
    printf("model: %.1f M weights, %ld layers of width %ld; %zu tokens a step\n",
           (double)g->weights / 1e6, g->cfg.layers, g->cfg.width, g->tokens);
    printf("working set: %.0f MiB in tensors, and %.0f MiB of scratch outside of them\n",
           (double)g->tensor_bytes / MIB, (double)g->scratch_bytes / MIB);
    if (ON_DEVICE) {
        tier_sum device = tier_class(g, "device");
        printf("device: %s, %s\nproducts: %s\nbudget: %.0f MiB of the device (%s)\n", device.name,
               device.location, compute_products(&g->c), (double)device.limit / MIB, device.limit_reason);
    }
    if (APART)
        printf("%s\n", compute_products(&g->c));
    printf("budget: %.0f MiB of host memory (%s); below it: %s %s, %s\n", (double)host.limit / MIB,
           host.limit_reason, disk.name, disk.location, disk.engine);
    fflush(stdout);
}

static uint64_t fnv1a(uint64_t hash, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return hash;
}

/* Adds a parameter and its moments to the hash, one tensor at a time. */
static void parameter_hash(model *g, parameter *p, void *user)
{
    terrace_tensor *parts[3] = {p->weight, p->first, p->second};
    for (int i = 0; i < 3; i++) {
        hold h = {.at = g->host};
        hold_add(&h, parts[i], TERRACE_READ);
        hold_acquire(&h);
        if (i < 2)
            check(terrace_prefetch(parts[i + 1], g->host.tier), "prefetch");
        *(uint64_t *)user = fnv1a(*(uint64_t *)user, hold_at(&h, 0), p->in * p->out * sizeof(float));
        hold_release(&h);
    }
}

static void json_text(FILE *f, const char *key, const char *value)
{
    fprintf(f, "  \"%s\": \"", key);
    for (; *value; value++)
        if (*value == '"' || *value == '\\')
            fprintf(f, "\\%c", *value);
        else if ((unsigned char)*value < ' ')
            fprintf(f, "\\u%04x", *value);
        else
            fputc(*value, f);
    fputs("\",\n", f);
}

static void json_number(FILE *f, const char *key, uint64_t value)
{
    fprintf(f, "  \"%s\": %" PRIu64 ",\n", key, value);
}

static void json_steps(FILE *f, const record *r, long steps)
{
    static const char *const keys[] = {"losses", "step_seconds", "step_stall_seconds",
                                       "step_read_bytes", "step_written_bytes"};
    for (int k = 0; k < 5; k++) {
        fprintf(f, "  \"%s\": [", keys[k]);
        for (long i = 0; i < steps; i++) {
            double real[] = {r[i].loss, r[i].seconds, r[i].stall};
            uint64_t whole[] = {r[i].read, r[i].written};
            if (k < 3)
                fprintf(f, "%s%.17g", i ? ", " : "", real[k]);
            else
                fprintf(f, "%s%" PRIu64, i ? ", " : "", whole[k - 3]);
        }
        fputs("],\n", f);
    }
}

static const char *tier_name(const model *g, terrace_tier tier, char *buf, size_t len)
{
    check(terrace_tier_name(g->m, tier, buf, len), "a tier's name");
    return buf;
}

/* One key a line, so that sed can read it. */
static void json_write(const model *g, const record *r, uint64_t hash)
{
    FILE *f = fopen(g->cfg.json, "w");
    struct rusage usage;
    if (!f)
        die(1, "--json: %s cannot be written: %s.", g->cfg.json, strerror(errno));
    tier_sum host = tier_class(g, "host"), disk = tier_class(g, "disk");
    terrace_statistics s = statistics(g);
    getrusage(RUSAGE_SELF, &usage);
    fputs("{\n", f);
    json_text(f, "terrace", terrace_version());
    json_number(f, "weights", g->weights);
    json_number(f, "tokens_per_step", g->tokens);
    json_number(f, "threads", (uint64_t)g->c.threads);
    json_number(f, "working_set_bytes", g->most_bytes);
    json_number(f, "scratch_bytes", g->scratch_bytes);
    json_number(f, "peak_rss_bytes", (uint64_t)usage.ru_maxrss * 1024);
    if (ON_DEVICE) {
        tier_sum device = tier_class(g, "device");
        json_text(f, "device", device.location);
        json_text(f, "products", compute_products(&g->c));
        json_number(f, "device_limit_bytes", device.limit);
        json_number(f, "device_peak_bytes", device.peak);
    }
    if (APART) {
        json_text(f, "weights_on", tier_name(g, g->here.tier, (char[64]){0}, 64));
        json_text(f, "moments_on", tier_name(g, g->there.tier, (char[64]){0}, 64));
    }
    json_number(f, "host_limit_bytes", host.limit);
    json_text(f, "host_limit_reason", host.limit_reason);
    json_number(f, "host_peak_bytes", host.peak);
    json_text(f, "disk", disk.location);
    json_text(f, "engine", disk.engine);
    json_text(f, "engine_reason", disk.engine_reason);
    json_number(f, "acquires", s.acquires);
    json_number(f, "hits", s.hits);
    json_number(f, "stall_ns", s.stall_ns);
    json_number(f, "prefetches", s.prefetches);
    json_number(f, "prefetch_hits", s.prefetch_hits);
    json_number(f, "evictions", s.evictions);
    json_number(f, "clean_evictions", s.clean_evictions);
    json_number(f, "writeback_bytes", s.writeback_bytes);
    json_number(f, "fill_bytes", s.fill_bytes);
    json_number(f, "wasted_bytes", s.wasted_bytes);
    json_number(f, "cpu_copy_bytes", s.cpu_copy_bytes);
    json_number(f, "io_errors", s.io_errors);
    json_steps(f, r, g->cfg.steps);
    fprintf(f, hash ? "  \"hash\": \"%016" PRIx64 "\"\n}\n" : "  \"hash\": null\n}\n", hash);
    if (ferror(f) | fclose(f))
        die(1, "--json: %s cannot be written: %s.", g->cfg.json, strerror(errno));
}

/* ---- main -------------------------------------------------------------- */

static int limit_add(char *conf, size_t len, const char *class, const char *limit)
{
    size_t at = strlen(conf);
    return limit && (size_t)snprintf(conf + at, len - at, "limit_%s=%s;", class, limit) >= len - at;
}

static void open_terrace(model *g)
{
    char conf[400] = "";
    if (limit_add(conf, sizeof conf, "host", g->cfg.host_limit))
        die(2, "--host-limit is '%s'; it must be a size such as 256M.", g->cfg.host_limit);
    if (limit_add(conf, sizeof conf, "device", g->cfg.hbm_limit))
        die(2, "--hbm-limit is '%s'; it must be a size such as 256M.", g->cfg.hbm_limit);
#ifdef DEFAULT_RULES
    if (!getenv("TERRACE_RULES"))
        strcat(conf, "rules=" DEFAULT_RULES);
#endif
    int rc = terrace_open(&g->m, conf);
    if (rc)
        die(rc == -TERRACE_ECONFIG ? 2 : 1, "%s", terrace_last_error());
}

static void find_places(model *g)
{
    check(terrace_tier_find(g->m, "host", &g->host.tier), "host memory");
    g->host.stream = TERRACE_HOST_SYNC;
#ifdef GPT_MIXED
    g->here = (place){g->c.weights.tier, g->c.weights.stream};
    g->there = (place){g->c.moments.tier, g->c.moments.stream};
#else
    check(terrace_tier_find(g->m, COMPUTE_TIER, &g->here.tier), "where to compute");
    g->here.stream = g->c.stream;
    g->there = g->here;
#endif
}

static void trace_open(const char *path)
{
    trace = fopen(path, "w");
    if (!trace)
        die(2, "--trace: %s cannot be written: %s.", path, strerror(errno));
}

static void trace_close(const char *path)
{
    FILE *file = trace;
    trace = NULL;
    if (file && (ferror(file) | fclose(file)))
        die(1, "--trace: %s cannot be written: %s.", path, strerror(errno));
}

static void train(model *g, const corpus *text, record *records)
{
    for (long step = 0; step < g->cfg.steps; step++) {
        terrace_statistics before = statistics(g);
        uint64_t in, out;
        record *r = &records[step];
        moved(g, &in, &out);
        double start = seconds();
        r->loss = train_step(g, text, step);
        r->seconds = seconds() - start;
        terrace_statistics after = statistics(g);
        moved(g, &r->read, &r->written);
        r->read -= in;
        r->written -= out;
        r->stall = (double)(after.stall_ns - before.stall_ns) * 1e-9;
        progress(g, step, r);
    }
}

static void model_free(model *g)
{
    void *scratch_memory[] = {g->inputs, g->targets, g->losses, g->x,    g->dx,
                              g->normed, g->back,    g->wide,   g->dwide, g->statistics};
    terrace_close(g->m); /* and with it all tensors */
    for (size_t i = 0; i < sizeof scratch_memory / sizeof *scratch_memory; i++)
        compute_forget(scratch_memory[i]);
    compute_close(&g->c);
    free(g->picked);
    free(g->lost);
    free(g->layers);
}

int main(int argc, char **argv)
{
    model g = {.cfg = {.layers = 8, .width = 896, .heads = 14, .context = 256, .batch = 3,
                       .steps = 8, .seed = 1, .threads = omp_get_max_threads(), .rate = 5e-4}};
    corpus text = {NULL, 0};
    uint64_t count = 0, hash = 0xcbf29ce484222325u;
    int status = 0;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--check-gradients") == 0) { /* unless other options say otherwise */
            g.cfg.layers = 2;
            g.cfg.width = 32;
            g.cfg.heads = 2;
            g.cfg.context = 70;
            g.cfg.batch = 2;
        }
    arguments_parse(&g.cfg, argc, argv);
    omp_set_num_threads((int)g.cfg.threads);
    corpus_load(&text, &g.cfg);
    if (APART) /* what it computes with is terrace's, and where, its rules' business */
        open_terrace(&g);
    model_open(&g);
    if (g.cfg.trace)
        trace_open(g.cfg.trace);
    if (!APART)
        open_terrace(&g);
    find_places(&g);
    model_create(&g);
    model_each(&g, parameter_start, &count);
    greet(&g);
    if (g.cfg.check_gradients) {
        status = check_gradients(&g, &text);
    } else {
        record *records = need(calloc((size_t)g.cfg.steps, sizeof *records));
        train(&g, &text, records);
        trace_close(g.cfg.trace);
        if (g.cfg.hash || (g.cfg.json && !ON_DEVICE)) /* there it would take longer than the steps */
            model_each(&g, parameter_hash, &hash);
        else
            hash = 0;
        if (g.cfg.hash)
            printf("hash of all weights and moments: %016" PRIx64 "\n", hash);
        if (g.cfg.json)
            json_write(&g, records, hash);
        free(records);
    }
    model_free(&g);
    free(text.bytes);
    return status;
}
