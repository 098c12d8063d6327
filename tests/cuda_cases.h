/* cuda_cases.h - what tests of the NVIDIA tier by itself share: the tier opened on a
 * simulated driver, and the driver's books. Include it once per program. */
#ifndef TERRACE_TESTS_CUDA_CASES_H
#define TERRACE_TESTS_CUDA_CASES_H

#include "../offload/cuda_driver.h"
#include "conformance.h"
#include "sim_books.h"

#define M UINT64_C(1048576)
enum { GRANULE = 2 << 20, CHUNK = 4 << 20 };

STUB int cuda_try(int index)
{
    t.b = backend_named("cuda");
    t.info = (terrace_unit_info){.size = sizeof t.info, .node = -1};
    return t.b->open(&stub_host, index, &t.info, &t.unit);
}

STUB void cuda_start(void)
{
    cr_assert_eq(cuda_try(0), 0, "%s", stub.sentence);
}

STUB struct sim_counts counted(void)
{
    struct sim_counts c;
    sim_count(&c);
    return c;
}

STUB void nothing_left(void)
{
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

STUB void cuda_end(void)
{
    t.b->close(t.unit);
    nothing_left();
}

#endif
