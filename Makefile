# terrace - build, test, install. `make help` lists the targets.
#
# Everything is built out of tree under $(BUILD). Nothing is probed while this
# file is read, so that `make demo` works on a machine where the libraries are
# not there yet: targets that need packages install them first, then run the
# rest through a second make.

VERSION = 0.1.0
SOVERSION = 0

ifeq ($(origin CC),default)
CC = gcc
endif
CFLAGS = -O2 -g
WARN = -Wall -Wextra -Wundef -Wshadow -Wstrict-prototypes
WERROR =
SANITIZE =
BUILD = build
PREFIX = /usr/local
DESTDIR =
TEST_TIMEOUT = 300

BINDIR = $(PREFIX)/bin
LIBDIR = $(PREFIX)/lib
INCLUDEDIR = $(PREFIX)/include
MANDIR = $(PREFIX)/share/man
DOCDIR = $(PREFIX)/share/doc/terrace

# ---- what there is ---------------------------------------------------------

LIB_SRC := $(sort $(wildcard lib/*.c)) $(sort $(wildcard lib/torch/*.c)) $(sort $(wildcard offload/*.c))
CLI_SRC := $(wildcard lib/cli/*.c)
PRELOAD_SRC := $(wildcard lib/preload/*.c)
EXAMPLE_SRC := $(filter-out %/backend_template.c %/gpt_mixed_opencl.c,$(wildcard examples/*.c))
BENCH_SRC := $(wildcard bench/*.c)
MODULE_SRC := $(wildcard bench/modules/*.c)
TEST_SRC := $(wildcard tests/test_*.c)
FAULT_SRC := $(wildcard tests/test_faults*.c)
PROG_SRC := $(wildcard tests/prog_*.c)
VM_SRC := $(wildcard tests/numa_vm/*.c)
GPU_SRC := $(wildcard tests/gpu/*.c)
SIM_SRC := $(wildcard tests/sim/*.c)
SIM_KINDS = hip musa maca corex ascend cnrt
HEADERS := $(wildcard include/*.h)

object = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB_OBJ = $(call object,$(LIB_SRC))
CLI_OBJ = $(call object,$(CLI_SRC))
PRELOAD_OBJ = $(call object,$(PRELOAD_SRC))
OBJECTS = $(call object,$(wildcard lib/*.c lib/torch/*.c offload/*.c lib/cli/*.c lib/preload/*.c examples/*.c bench/*.c bench/modules/*.c bench/loop/*.c bench/replay/*.c tests/*.c tests/numa_vm/*.c tests/gpu/*.c tests/sim/*.c))

LIBRARY = $(BUILD)/lib/libterrace.so.$(VERSION)
LINKS = $(BUILD)/lib/libterrace.so.$(SOVERSION) $(BUILD)/lib/libterrace.so
# A sanitizer replaces malloc itself.
PRELOAD = $(if $(SANITIZE),,$(BUILD)/lib/libterrace-preload.so)
COMMAND = $(BUILD)/bin/terrace
ALLOC_MODULES = $(MODULE_SRC:%.c=$(BUILD)/%.so)
PC = $(BUILD)/lib/pkgconfig/terrace.pc
MAN = $(BUILD)/man/terrace.1 $(BUILD)/man/terrace.3
EXAMPLES = $(EXAMPLE_SRC:%.c=$(BUILD)/%)
TEMPLATE = $(BUILD)/examples/libterrace-template.so
BENCHES = $(BENCH_SRC:%.c=$(BUILD)/%)
LOOPS = adam inference random
BENCH_MODULES = $(BUILD)/bench/starpu.so $(BUILD)/bench/plain.so
LOOP_OBJ = $(call object,bench/loop/main.c $(filter-out %starpu.c,$(wildcard bench/loop/engine_*.c)))
PROGS = $(PROG_SRC:%.c=$(BUILD)/%)
FAULTS = $(FAULT_SRC:%.c=$(BUILD)/%)
TESTS = $(filter-out $(FAULTS),$(TEST_SRC:%.c=$(BUILD)/%))
SIM_CUDA = $(BUILD)/tests/sim/libcuda.so.1
SIM_hip = $(BUILD)/tests/sim/hip/libamdhip64.so.6
SIM_musa = $(BUILD)/tests/sim/musa/libmusart.so
SIM_maca = $(BUILD)/tests/sim/maca/libmcruntime.so
SIM_corex = $(BUILD)/tests/sim/corex/lib64/libcudart.so
SIM_ascend = $(BUILD)/tests/sim/ascend/libascendcl.so
SIM_cnrt = $(BUILD)/tests/sim/cnrt/libcnrt.so
SIM_LIBRARIES = $(SIM_CUDA) $(foreach kind,$(SIM_KINDS),$(SIM_$(kind)))
VM_PROGS = $(VM_SRC:tests/numa_vm/%.c=$(BUILD)/vm/%)
GPU_TESTS = $(patsubst tests/%.c,$(BUILD)/%,$(filter %/gpu_cuda.c %/gpu_tier.c %/gpu_stable.c,$(GPU_SRC)))
GPU_PROGS = $(GPU_TESTS) $(BUILD)/gpu/bench $(BUILD)/gpu/disk $(BUILD)/gpu/gpt $(NVCC:%=$(BUILD)/gpu/gpt_cuda)

# NVIDIA's compiler, for the trainer on a device; empty: there is none.
CUDA = /usr/local/cuda
NVCC = $(wildcard $(CUDA)/bin/nvcc)

# ---- how it is compiled ----------------------------------------------------

# The jemalloc inside the library, built once for all variants; or one's own:
# see .ci/jemalloc. It writes what compiler and linker are to be told.
JEMALLOC = build/jemalloc
MALLOC = build/malloc
JEMALLOC_PREFIX =

# A file's or program's own flags: NAME_CFLAGS and NAME_LIBS.
# The thread sanitizer would see little of what jemalloc does, and fails where a
# process forks while it holds as many locks as jemalloc takes for a fork.
heap_jemalloc_CFLAGS = $(if $(findstring thread,$(SANITIZE)),-DTERRACE_WITHOUT_JEMALLOC,@$(JEMALLOC)/cflags)
# Programs that use OpenCL themselves do so where its headers are.
OPENCL_CFLAGS = $$(pkg-config --exists OpenCL && echo -DWITH_OPENCL -DCL_TARGET_OPENCL_VERSION=200 -DCL_USE_DEPRECATED_OPENCL_1_2_APIS)
OPENCL_LIBS = $$(pkg-config --libs OpenCL 2>/dev/null)
OPENCL_PROGRAMS = test_opencl_tier opencl opencl_saxpy gpt_mixed_opencl
OPENMP = -fopenmp
gpt_CFLAGS = -O3 -march=native $(OPENMP)
# A C++ exception passes through these.
raise_CFLAGS = -fexceptions
blocks_CFLAGS = -fexceptions
gpt_LIBS = $(OPENMP) -lm
# Its kernels are rounded here as they are on a device.
gpt_mixed_CFLAGS = -O3 -ffp-contract=off $(OPENMP)
gpt_mixed_LIBS = $(OPENMP) $(OPENCL_LIBS) -lm

$(foreach program,$(OPENCL_PROGRAMS),$(eval $(program)_LIBS = $$(OPENCL_LIBS)))
$(foreach program,$(OPENCL_PROGRAMS),$(eval $(program)_CFLAGS = $$(OPENCL_CFLAGS)))

# lib/ is searched for quoted includes only: its error.h is not <error.h>.
# _GNU_SOURCE empty, so that a file may define it, too.
CPPFLAGS = -D_GNU_SOURCE= -DTERRACE_BUILD -Iinclude -iquote lib
SANFLAGS = $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all)
COMPILE = $(CC) -std=gnu11 -fPIC -fvisibility=hidden -pthread $(CPPFLAGS) $(CFLAGS) \
          $(SANFLAGS) $(WARN) $(WERROR)
LINK = $(CC) -pthread $(CFLAGS) $(SANFLAGS) $(LDFLAGS)
LIBS = -luring -lnuma -lxxhash -lsodium @$(JEMALLOC)/libs
# A sanitizer's runtime is the program's, so -z defs only holds without one.
# nodelete: jemalloc has a destructor of thread-specific data, which would be
# left behind by dlclose() for every later end of a thread to jump to; and its
# memory, which a second dlopen() so finds again, would be lost each time.
SHARED = -shared -Wl,-soname,libterrace.so.$(SOVERSION) -Wl,--as-needed -Wl,-z,nodelete \
         -Wl,--version-script=lib/libterrace.map -Wl,--exclude-libs,ALL $(if $(SANITIZE),,-Wl,-z,defs)
WITH_LIBRARY = -L$(BUILD)/lib -Wl,--as-needed -lterrace -Wl,-rpath,'$$ORIGIN/../lib'

.DELETE_ON_ERROR:
.SECONDARY:

##: all           library, command, man pages, examples, benchmarks
all: library $(COMMAND) $(MAN) $(EXAMPLES) $(TEMPLATE) $(BENCHES) $(BENCH_MODULES) $(ALLOC_MODULES) \
     $(if $(NVCC),$(BUILD)/examples/gpt_cuda,without-nvcc)

library: $(LIBRARY) $(LINKS) $(PC) $(PRELOAD)

programs: all $(TESTS) $(FAULTS) $(PROGS) $(SIM_LIBRARIES) $(if $(SANITIZE),,$(BUILD)/tests/sim/gpt_cuda $(BUILD)/tests/sim/gpt_mixed)

objects: $(OBJECTS)

# Changes whenever compiler or flags do, and then everything is rebuilt.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(COMPILE) $(LDFLAGS)' | cmp -s - $@ || echo '$(COMPILE) $(LDFLAGS)' > $@

$(JEMALLOC)/cflags: FORCE
	@CC="$(CC)" .ci/jemalloc $(JEMALLOC) library $(JEMALLOC_PREFIX)
$(JEMALLOC)/libs: $(JEMALLOC)/cflags ;
$(MALLOC)/cflags: FORCE
	@CC="$(CC)" .ci/jemalloc $(MALLOC) malloc
$(MALLOC)/libs: $(MALLOC)/cflags ;

$(BUILD)/obj/lib/heap_jemalloc.o: $(JEMALLOC)/cflags
$(PRELOAD_OBJ): $(MALLOC)/cflags
$(PRELOAD_OBJ): CPPFLAGS += -iquote lib/preload @$(MALLOC)/cflags
$(PRELOAD_OBJ): CFLAGS += -O2 -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -ftls-model=initial-exec

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) $($(notdir $*)_CFLAGS) -MMD -MP -c $< -o $@

$(LIBRARY): $(LIB_OBJ) lib/libterrace.map $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) $(SHARED) -o $@ $(LIB_OBJ) $(LIBS)

# initfirst: its fork handlers come before all others. What is wrapped are calls
# from within it, by jemalloc.
$(BUILD)/lib/libterrace-preload.so: $(PRELOAD_OBJ) lib/preload/preload.map $(MALLOC)/libs $(LINKS)
	$(LINK) -shared -Wl,-soname,libterrace-preload.so -Wl,-z,initfirst -Wl,-z,nodelete -Wl,-z,defs \
	    -Wl,--version-script=lib/preload/preload.map -Wl,--exclude-libs,ALL \
	    -Wl,--wrap=mmap,--wrap=munmap,--wrap=madvise,--wrap=mprotect -Wl,-rpath,'$$ORIGIN' \
	    -o $@ $(PRELOAD_OBJ) @$(MALLOC)/libs -L$(BUILD)/lib -lterrace -ldl

$(LINKS): $(LIBRARY)
	@ln -sf libterrace.so.$(VERSION) $@

$(COMMAND): $(CLI_OBJ) $(LINKS)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(CLI_OBJ) $(WITH_LIBRARY)

$(EXAMPLES) $(BENCHES) $(PROGS): $(BUILD)/%: $(BUILD)/obj/%.o $(LINKS)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $(WITH_LIBRARY) $($(notdir $*)_LIBS)

# A backend by itself, as TERRACE_BACKENDS takes it: it needs nothing of the library.
$(TEMPLATE): $(BUILD)/obj/examples/backend_template.o
	@mkdir -p $(@D)
	$(LINK) -shared $(if $(SANITIZE),,-Wl,-z,defs) -o $@ $<

# This one replays traces against the library's own functions.
$(BUILD)/bench/policy: $(call object,$(wildcard bench/replay/*.c) $(addprefix lib/,policy.c schedule.c schedule_lines.c schedule_steps.c))

# This one makes the driver's own calls, too.
$(BUILD)/bench/gpu: $(call object,offload/cuda_driver.c)
gpu_LIBS = -ldl

# What bench/alloc compares, each with the private jemalloc in it: terrace's
# allocator of addresses, which the library does not export, and that by itself.
MODULE_OBJ = $(patsubst %,$(BUILD)/obj/lib/%.o,account arena error heap heap_cache heap_classes heap_jemalloc pages)
jemalloc_CFLAGS = @$(JEMALLOC)/cflags
$(BUILD)/obj/bench/modules/jemalloc.o: $(JEMALLOC)/cflags
$(BUILD)/bench/modules/heap.so: $(MODULE_OBJ)
$(ALLOC_MODULES): $(BUILD)/%.so: $(BUILD)/obj/%.o $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) -shared -o $@ $(filter %.o,$^) -Wl,--exclude-libs,ALL @$(JEMALLOC)/libs

# Loops that several engines run: see bench/loop/loop.h.
$(foreach loop,$(LOOPS),$(eval $(loop)_CFLAGS = -O3 -march=native -fno-math-errno $(OPENMP)))
$(foreach loop,$(LOOPS),$(eval $(loop)_LIBS = -rdynamic $(OPENMP) -luring -lm -ldl))
disk_LIBS = -luring
$(LOOPS:%=$(BUILD)/bench/%): $(LOOP_OBJ)

$(BUILD)/bench/plain.so: $(BUILD)/obj/bench/loop/plain.o
	@mkdir -p $(@D)
	$(LINK) -shared -o $@ $<

# One of them only where StarPU is installed; empty elsewhere.
engine_starpu_CFLAGS = $$(pkg-config --cflags starpu-1.3 2>/dev/null | sed 's/-I/-isystem /g')
$(BUILD)/bench/starpu.so: $(BUILD)/obj/bench/loop/engine_starpu.o
	@mkdir -p $(@D)
	$(LINK) -shared -o $@ $< $$(pkg-config --libs starpu-1.3 2>/dev/null)

# The trainer on a device: the same gpt.c, and kernels instead of gpt_kernels.h.
# cudart is linked statically, so that it runs where only the driver is installed.
NVCC_FLAGS = -O3 -std=c++17 -arch=all-major -Xcompiler -fPIC,-fno-exceptions,-fno-threadsafe-statics
CUDART = -L$(CUDA)/lib64 -lcudart_static -ldl -lrt
$(BUILD)/obj/examples/gpt_device.o: examples/gpt.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -O3 -DGPT_CUDA -MMD -MP -c $< -o $@

$(BUILD)/obj/examples/gpt_cuda.o: examples/gpt_cuda.cu examples/gpt_cuda.h examples/gpt_calls.h examples/gpt_compute.h
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -c $< -o $@

$(BUILD)/examples/gpt_cuda: $(BUILD)/obj/examples/gpt_device.o $(BUILD)/obj/examples/gpt_cuda.o $(LINKS)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $(WITH_LIBRARY) $(CUDART) -lm

# The trainer where placement rules say: the same gpt.c again.
MIXED_OBJ = $(patsubst %,$(BUILD)/obj/examples/%.o,gpt_mixed_main gpt_mixed gpt_mixed_opencl)
$(BUILD)/obj/examples/gpt_mixed_main.o: examples/gpt.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -O3 $(OPENMP) -DGPT_MIXED -MMD -MP -c $< -o $@

$(BUILD)/obj/examples/gpt_mixed_opencl.o: examples/gpt_mixed.cl
$(BUILD)/examples/gpt_mixed: $(MIXED_OBJ)

without-nvcc:
	@echo "examples/gpt_cuda is not built: there is no $(CUDA)/bin/nvcc (CUDA= names another folder)"

# Unit tests contain the library's objects, to reach what it does not export.
# Under a sanitizer they have a main of their own (see there).
TEST_MAIN = $(if $(SANITIZE),$(BUILD)/obj/tests/plain_main.o)
$(TESTS): $(BUILD)/%: $(BUILD)/obj/%.o $(TEST_MAIN) $(LIB_OBJ) $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $($(notdir $*)_LIBS) $(LIBS) -lcriterion

# A CUDA driver that is simulated over host memory: see tests/sim/sim.h. A program
# linked with it has it loaded under the name that dlopen() is asked for.
WITH_SIM_CUDA = $(SIM_CUDA) -Wl,-rpath,'$$ORIGIN/sim'
SIM_CUDA_TESTS = $(patsubst tests/%.c,%,$(wildcard tests/test_sim*.c tests/test_cuda*.c))
$(foreach test,$(SIM_CUDA_TESTS),$(eval $(test)_LIBS = $$(WITH_SIM_CUDA)))
$(SIM_CUDA_TESTS:%=$(BUILD)/tests/%): $(SIM_CUDA)

# That trainer there: its kernels, compiled for the CPU (see tests/sim/kernels.h).
$(BUILD)/obj/tests/sim/gpt_cuda.o: tests/sim/gpt_cuda.cc $(BUILD)/flags
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -fPIC -pthread -O2 -g -Wall -Wextra $(WERROR) -Iinclude -MMD -MP -c $< -o $@

$(BUILD)/tests/sim/gpt_cuda: $(BUILD)/obj/examples/gpt_device.o $(BUILD)/obj/tests/sim/gpt_cuda.o $(LINKS) $(SIM_CUDA)
	@mkdir -p $(@D)
	$(CXX) -pthread -o $@ $(filter %.o,$^) $(SIM_CUDA) -L$(BUILD)/lib -lterrace \
	    -Wl,-rpath,'$$ORIGIN' -Wl,-rpath,'$$ORIGIN/../../lib' -lm

# Where NVIDIA's cuda.h is, declarations of the driver are compared with it.
cuda_check_CFLAGS = -isystem $(CUDA)/include
cudalike_check_cuda_CFLAGS = -isystem $(CUDA)/include
SIM_ENGINE = $(filter-out $(SIM_KINDS:%=tests/sim/%.c) $(wildcard tests/sim/cuda_*.c),$(SIM_SRC))
$(SIM_CUDA): $(call object,$(filter-out %cuda_check.c,$(wildcard tests/sim/cuda_*.c)))
$(SIM_CUDA): | $(call object,tests/sim/cuda_check.c)
$(SIM_LIBRARIES): $(call object,$(SIM_ENGINE))
	@mkdir -p $(@D)
	$(LINK) -shared -Wl,-soname,$(@F) -Wl,-Bsymbolic -Wl,-z,nodelete $(if $(SANITIZE),,-Wl,-z,defs) \
	    -o $@ $(filter %.o,$^)

# The same for the runtimes of other vendors, each with its own names and numbers. A
# test of a kind's is linked with it.
SIM_RPATH = -Wl,-rpath,'$$ORIGIN/$(patsubst $(BUILD)/tests/%/,%,$(dir $(SIM_$(1))))'
sim_tests = $(patsubst tests/%.c,%,$(wildcard tests/test_$(1).c tests/test_$(1)_*.c))
$(foreach kind,$(SIM_KINDS),$(eval $(SIM_$(kind)): $(call object,tests/sim/$(kind).c)))
$(foreach kind,$(SIM_KINDS),$(foreach test,$(call sim_tests,$(kind)),\
    $(eval $(test)_LIBS = $$(SIM_$(kind)) $$(call SIM_RPATH,$(kind)))$(eval $(BUILD)/tests/$(test): $$(SIM_$(kind)))))

# The trainer with optimizer state on a simulated device.
$(BUILD)/tests/sim/gpt_mixed: $(MIXED_OBJ) $(BUILD)/obj/tests/gpt_mixed_ascend.o $(LINKS) $(SIM_ascend)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $(SIM_ascend) -L$(BUILD)/lib -lterrace $(gpt_mixed_LIBS) \
	    -Wl,-rpath,'$$ORIGIN/ascend' -Wl,-rpath,'$$ORIGIN/../../lib'

# The same for a virtual machine, which has no Criterion to run tests in a sandbox.
$(VM_PROGS): $(BUILD)/vm/%: $(BUILD)/obj/tests/numa_vm/%.o $(BUILD)/obj/tests/plain_main.o $(LIB_OBJ) \
                            $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $(LIBS) -lcriterion

# And for a machine with a device, where nothing else need be installed: programs
# that contain all but the C library and the driver.
GPU_LIBS = -l:liburing.a -l:libnuma.a -l:libxxhash.a -l:libsodium.a @$(JEMALLOC)/libs -ldl -lm
GPU_OBJ = $(call object,tests/plain_main.c tests/gpu/criterion.c tests/gpu/driver.c) $(LIB_OBJ)
$(GPU_TESTS): $(BUILD)/gpu/%: $(BUILD)/obj/tests/gpu/%.o $(GPU_OBJ) $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) -s -o $@ $(filter %.o,$^) $(GPU_LIBS)

$(BUILD)/obj/examples/gpt_anywhere.o: examples/gpt.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -O3 -MMD -MP -c $< -o $@

$(BUILD)/gpu/gpt: $(BUILD)/obj/examples/gpt_anywhere.o
$(BUILD)/gpu/gpt_cuda: $(BUILD)/obj/examples/gpt_device.o $(BUILD)/obj/examples/gpt_cuda.o
$(BUILD)/gpu/gpt_cuda: GPU_LIBS += $(CUDART)
$(BUILD)/gpu/bench: $(BUILD)/obj/bench/gpu.o
$(BUILD)/gpu/disk: $(BUILD)/obj/bench/disk.o
$(filter-out $(GPU_TESTS),$(GPU_PROGS)): $(LIB_OBJ) $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) -s -o $@ $(filter %.o,$^) $(GPU_LIBS)

# Here calls of the symbols in tests/faults.wrap go through tests/faults.c.
$(FAULTS): $(BUILD)/%: $(BUILD)/obj/%.o $(BUILD)/obj/tests/faults.o $(TEST_MAIN) $(LIB_OBJ) \
                       tests/faults.wrap $(JEMALLOC)/libs
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $$(sed -n 's/^\([a-zA-Z_]\)/-Wl,--wrap=\1/p' tests/faults.wrap) \
	    $(LIBS) -lcriterion

# The same file serves from the build tree: only the folders differ.
fill_pc = sed -e 's|@prefix@|$(1)|' -e 's|@libdir@|$(2)|' -e 's|@includedir@|$(3)|' \
          -e 's|@version@|$(VERSION)|' pkgconfig/terrace.pc.in
$(PC): pkgconfig/terrace.pc.in Makefile
	@mkdir -p $(@D)
	$(call fill_pc,$(CURDIR),$(abspath $(BUILD))/lib,$(CURDIR)/include) > $@

# The command writes the parts of its manual that come from tables.
$(BUILD)/man/%: lib/cli/%.in $(COMMAND)
	@mkdir -p $(@D)
	$(COMMAND) help --fill man < $< > $@

# ---- try it ----------------------------------------------------------------

##: demo          install what a build needs, build, and run the demonstration
demo: deps-build
	$(MAKE) all
	BUILD=$(BUILD) examples/demo.sh

# ---- test ------------------------------------------------------------------

# All but those without threads, in which that sanitizer has nothing to find.
TSAN_TESTS = $(filter-out test_budget test_options,$(TEST_SRC:tests/%.c=%))
RUN_TESTS = BUILD=$(BUILD) CC="$(CC)" SANITIZE="$(SANITIZE)" TEST_TIMEOUT=$(TEST_TIMEOUT) tests/run.sh

##: check         build and run every test; the last line counts them
check: deps-check
	$(MAKE) programs
	@$(RUN_TESTS)

##: check-asan    the same under the address and undefined-behaviour sanitizers
check-asan:
	$(MAKE) check BUILD=build/asan SANITIZE=address,undefined CFLAGS="-O1 -g"

##: check-tsan    the threaded tests under the thread sanitizer
check-tsan: deps-check
	$(MAKE) programs BUILD=build/tsan SANITIZE=thread CFLAGS="-O1 -g"
	@$(MAKE) --no-print-directory run-tests BUILD=build/tsan SANITIZE=thread ONLY="$(TSAN_TESTS)"

run-tests:
	@$(RUN_TESTS) $(ONLY)

##: check-preload programs as they are (numpy, git, gcc, redis, PyTorch, ...), preloaded; ONLY="git redis"
check-preload: deps-preload
	$(MAKE) all
	@BUILD=$(BUILD) CC="$(CC)" tests/preload/programs.sh $(ONLY)

##: check-numa    tests on two NUMA nodes: boots a Debian kernel in an emulated machine
check-numa: deps-numa
	$(MAKE) all $(VM_PROGS)
	@BUILD=$(BUILD) tests/numa_vm/check.sh $(ONLY)

##: gpu           in build/gpu all that check-gpu and bench-gpu run, to be carried to a machine with a device
gpu:
	$(MAKE) $(GPU_PROGS)
	@du -sh $(BUILD)/gpu

# Where it cannot be built, what is in build/gpu is run as it is.
gpu_built = @if [ -x $(BUILD)/gpu/bench ] && ! echo '\#include <liburing.h>' | $(CC) -E - >/dev/null 2>&1; \
    then echo "running what is in $(BUILD)/gpu, as nothing can be built here"; \
    else $(MAKE) deps-check && $(MAKE) gpu; fi

##: check-gpu     tests on an NVIDIA device
check-gpu:
	$(gpu_built)
	@BUILD=$(BUILD) tests/gpu.sh

##: bench-gpu     measure on an NVIDIA device
bench-gpu:
	$(gpu_built)
	@BUILD=$(BUILD) bench/gpu.sh

##: bench         measure, next to other ways to do it; BENCH="--only adam,gpt --quick" for a part
BENCH =
bench: deps-bench
	$(MAKE) all
	BUILD=$(BUILD) python3 bench/run.py $(BENCH)
	$(if $(BENCH),,BUILD=$(BUILD) python3 bench/alloc.py)
	$(if $(BENCH),,BUILD=$(BUILD) python3 bench/stable.py)

##: bench-preload measure unmodified programs, preloaded, next to kernel swap and to jemalloc
bench-preload: deps-preload
	$(MAKE) all
	BUILD=$(BUILD) python3 bench/preload.py

# ---- read, install, ship ---------------------------------------------------

##: docs          renew the tables in README.md: files, settings, errors
docs: $(COMMAND)
	$(COMMAND) help --fill readme $(LIB_SRC) < README.md > $(BUILD)/README.md
	cmp -s $(BUILD)/README.md README.md || cp $(BUILD)/README.md README.md

##: lint          gcc and clang with warnings as errors, clang-tidy, cppcheck, headers, layers
lint: deps-lint
	$(MAKE) objects BUILD=build/lint-gcc CC=gcc WERROR=-Werror
	$(MAKE) objects BUILD=build/lint-clang CC=clang WERROR="-Werror -Wno-unknown-pragmas" \
	    OPENMP=
	$(MAKE) --no-print-directory tidy cppcheck
	tests/check_headers.sh
	tests/check_layers.sh

LINT_SRC = $(wildcard lib/*.c lib/torch/*.c offload/*.c lib/cli/*.c lib/preload/*.c examples/*.c bench/*.c bench/modules/*.c bench/loop/*.c bench/replay/*.c)
tidy: $(JEMALLOC)/cflags $(MALLOC)/cflags
	clang-tidy --quiet --warnings-as-errors='*' $(filter-out lib/preload/%,$(LINT_SRC)) -- -std=gnu11 $(CPPFLAGS) \
	    $$(cat $(JEMALLOC)/cflags)
	clang-tidy --quiet --warnings-as-errors='*' $(PRELOAD_SRC) -- -std=gnu11 $(CPPFLAGS) -iquote lib/preload \
	    $$(cat $(MALLOC)/cflags)

# System headers are left out, but for those whose macros declare things.
MACRO_HEADERS = sys/queue.h bsd/sys/tree.h
cppcheck:
	@mkdir -p $(BUILD)/cppcheck/sys $(BUILD)/cppcheck/bsd/sys
	@for header in $(MACRO_HEADERS); do \
	    echo "#include <$$header>" | $(CC) -H -E - 2>&1 >/dev/null | sed -n 's|^\. ||p' | \
	        xargs -I% cp % $(BUILD)/cppcheck/$$header; done
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability \
	    --inline-suppr --suppressions-list=.cppcheck -D__linux__ \
	    --library=posix,gnu,bsd -Iinclude -Ilib -I$(BUILD)/cppcheck $(LINT_SRC)

install_dirs = $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR) \
               $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man3 $(DESTDIR)$(DOCDIR)

##: install       libraries, headers, command, man pages, pkg-config file
install: library $(COMMAND) $(MAN)
	install -d $(install_dirs)
	install -m 755 $(LIBRARY) $(DESTDIR)$(LIBDIR)
	ln -sf libterrace.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libterrace.so.$(SOVERSION)
	ln -sf libterrace.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libterrace.so
	$(if $(PRELOAD),install -m 755 $(PRELOAD) $(DESTDIR)$(LIBDIR))
	install -m 644 $(HEADERS) $(DESTDIR)$(INCLUDEDIR)
	install -m 755 $(COMMAND) $(DESTDIR)$(BINDIR)
	install -m 644 $(BUILD)/man/terrace.1 $(DESTDIR)$(MANDIR)/man1
	install -m 644 $(BUILD)/man/terrace.3 $(DESTDIR)$(MANDIR)/man3
	$(call fill_pc,$(PREFIX),$(LIBDIR),$(INCLUDEDIR)) > $(DESTDIR)$(LIBDIR)/pkgconfig/terrace.pc
	[ ! -e $(JEMALLOC)/COPYING ] || install -m 644 $(JEMALLOC)/COPYING $(DESTDIR)$(DOCDIR)/COPYING.jemalloc
	[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || ldconfig

##: uninstall     remove what install put there
uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/libterrace.so $(DESTDIR)$(LIBDIR)/libterrace.so.$(SOVERSION) \
	    $(DESTDIR)$(LIBDIR)/libterrace.so.$(VERSION) $(DESTDIR)$(LIBDIR)/pkgconfig/terrace.pc \
	    $(HEADERS:include/%=$(DESTDIR)$(INCLUDEDIR)/%) $(DESTDIR)$(BINDIR)/terrace \
	    $(DESTDIR)$(MANDIR)/man1/terrace.1 $(DESTDIR)$(MANDIR)/man3/terrace.3 \
	    $(DESTDIR)$(LIBDIR)/libterrace-preload.so $(DESTDIR)$(DOCDIR)/COPYING.jemalloc

DIST = terrace-$(VERSION)

##: dist          a tar of the last commit in build/
dist:
	@mkdir -p $(BUILD)
	git archive --prefix=$(DIST)/ HEAD | gzip -9n > $(BUILD)/$(DIST).tar.gz
	@echo $(BUILD)/$(DIST).tar.gz

# ---- packages --------------------------------------------------------------

BUILD_PACKAGES = gcc make pkg-config libc6-dev liburing-dev libnuma-dev libxxhash-dev libsodium-dev libbsd-dev dpkg-dev
CHECK_PACKAGES = g++ libcriterion-dev python3
OPENCL_PACKAGES = ocl-icd-opencl-dev opencl-c-headers pocl-opencl-icd
HIP_PACKAGES = libamdhip64-dev
LINT_PACKAGES = clang clang-tidy cppcheck
NUMA_PACKAGES = qemu-system-x86 busybox-static cpio
BENCH_PACKAGES = fio jq python3
# Debian's own Python brings its tests in a package of the version's.
PYTHON_TESTS = lib$$(readlink /usr/bin/python3)-testsuite
PRELOAD_PACKAGES = python3-numpy libjemalloc2 $(PYTHON_TESTS) git sqlite3 redis-server stress-ng python3-torch
RIVAL_PACKAGES = libstarpu-dev

##: deps          install the Debian packages that are missing
deps: deps-build deps-check deps-lint deps-bench
deps-build:
	@.ci/deps $(BUILD_PACKAGES)
deps-check: deps-build
	@.ci/deps $(CHECK_PACKAGES)
	@.ci/deps $(OPENCL_PACKAGES) || true
	@.ci/deps $(HIP_PACKAGES) || true
deps-lint: deps-check
	@.ci/deps $(LINT_PACKAGES)
deps-numa: deps-check
	@.ci/deps $(NUMA_PACKAGES)
deps-preload: deps-check
	@.ci/deps $(PRELOAD_PACKAGES)
deps-bench: deps-build
	@.ci/deps $(BENCH_PACKAGES)
	@.ci/deps $(RIVAL_PACKAGES) || true

##: clean         remove everything built
clean:
	rm -rf $(BUILD)

##: help          this list
help:
	@echo "make TARGET [CC=] [CFLAGS=] [SANITIZE=] [BUILD=build] [PREFIX=/usr/local] [DESTDIR=] [JEMALLOC_PREFIX=]"
	@sed -n 's/^##: /  /p' $(firstword $(MAKEFILE_LIST))

FORCE:
.PHONY: all library programs objects demo check check-asan check-tsan run-tests check-preload bench-preload check-numa check-gpu gpu without-nvcc \
        bench bench-gpu docs lint tidy cppcheck install uninstall dist deps deps-build deps-check deps-lint deps-numa deps-preload deps-bench clean help FORCE

-include $(OBJECTS:.o=.d) $(patsubst %,$(BUILD)/obj/%.d,examples/gpt_device examples/gpt_anywhere examples/gpt_mixed_main tests/sim/gpt_cuda)
