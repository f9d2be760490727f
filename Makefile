# libflowcoro. `make help` lists the targets; everything built lies under build/.
#
#   make SANITIZE=address|thread|no_sync|valgrind|coverage
#                                  gcc's ASan and UBSan; clang's TSan, and TSan that does not take a switch of
#                                  stacks for synchronisation; stacks that memcheck knows; gcc's counts of
#                                  what was run. Under build/address, ...
#   make DEBUG=1                   assertions and no optimisation; under build/debug
#   make CROSS=aarch64-linux-gnu-  for another machine; give BUILD= too
#   make V=1                       shows the commands
# CFLAGS and LDFLAGS are added to ours; PREFIX and DESTDIR say where `make install` puts things.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

PREFIX    ?= /usr/local
BUILD     ?= build$(addprefix /,$(SANITIZE))$(if $(DEBUG),/debug)
PERF_ARGS ?=
Q         := $(if $(V),,@)
say        = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(patsubst $(BUILD)/%,%,$@)')

ifneq ($(filter-out address thread no_sync valgrind coverage,$(SANITIZE)),)
$(error SANITIZE is '$(SANITIZE)'; it may be address, thread, no_sync, valgrind or coverage)
endif

# --- tools ---------------------------------------------------------------------------

ifeq ($(origin CC),default)
CC := $(if $(filter thread no_sync,$(SANITIZE)),clang,$(CROSS)gcc)
endif
ifeq ($(origin AR),default)
AR := $(CROSS)ar
endif
PKG_CONFIG ?= $(CROSS)pkg-config

ARCH    := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))
VERSION := $(shell sed -n 's/^.define FLOW_VERSION_[A-Z]* //p' include/flowcoro/base.h | paste -sd.)
SONAME  := libflowcoro.so.$(firstword $(subst ., ,$(VERSION)))

# Asked for on first use and once only: `make clean` needs none of these.
pkg = $(shell $(PKG_CONFIG) $(1) 2>/dev/null || echo $(2))
# The compiler knows its own /usr/include/<cpu>-linux-gnu; a cross compiler must not see this one's.
DEPS_CFLAGS = $(eval DEPS_CFLAGS := $(filter-out -I/usr/include/%-linux-gnu, \
	$(call pkg,--cflags numa liburcu-memb)))$(DEPS_CFLAGS)
DEPS_LIBS   = $(eval DEPS_LIBS := $(call pkg,--libs numa liburcu-memb,-lnuma -lurcu-memb -lurcu-common))$(DEPS_LIBS)

DEPS_VERSIONS = $(eval DEPS_VERSIONS := -DFLOW__LIBNUMA_VERSION='"$(call pkg,--modversion numa,unknown)"' \
	-DFLOW__LIBURCU_VERSION='"$(call pkg,--modversion liburcu-memb,unknown)"')$(DEPS_VERSIONS)

# --- flags ---------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wno-missing-field-initializers
HARDEN   := -fstack-protector-strong -fstack-clash-protection
RELEASE  := -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
HARDEN_x86_64  := -fcf-protection=branch
# gcc takes it there for granted that guards are 64 KiB, and would step over a stack's guard page.
HARDEN_aarch64 := -mbranch-protection=standard \
	$(if $(filter clang%,$(CC)),,--param=stack-clash-protection-guard-size=12)
SANITIZE_address := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZE_thread  := -O1 -fno-omit-frame-pointer -fsanitize=thread
SANITIZE_no_sync := $(SANITIZE_thread) -DFLOW_TSAN_NO_SYNC
SANITIZE_valgrind := -O1 -fno-omit-frame-pointer -DFLOW_VALGRIND
SANITIZE_coverage := -O1 --coverage -fprofile-update=atomic
# With no_sync the coroutines of one worker race, as far as TSan knows, for all that their worker owns.
# So of the library itself only the atomics are watched, and of its callers everything.
LIB_no_sync      := -mllvm -tsan-instrument-memory-accesses=0 -mllvm -tsan-instrument-memintrinsics=0

ifdef SANITIZE
MODE := $(SANITIZE_$(SANITIZE))
else
MODE := $(if $(DEBUG),-O1,$(RELEASE))
endif

CPPFLAGS_ALL = -Iinclude -I. -D_GNU_SOURCE $(if $(DEBUG),-DFLOW_DEBUG) $(DEPS_CFLAGS) $(DEPS_VERSIONS) $(CPPFLAGS)
CFLAGS_ALL   = $(CPPFLAGS_ALL) -std=gnu11 -g -fPIC -fvisibility=hidden -ftls-model=initial-exec -pthread \
	$(WARNINGS) $(HARDEN) $(HARDEN_$(ARCH)) $(MODE) $(CFLAGS)
LDFLAGS_ALL  = -pthread $(MODE) -Wl,-z,relro,-z,now,-z,noexecstack $(CFLAGS) $(LDFLAGS)
# clang leaves the sanitizer's symbols of a shared library to the program.
SHARED_FLAGS = -shared -Wl,-soname,$(SONAME) -Wl,--version-script,core/flowcoro.map \
	-Wl,-z,nodelete $(if $(SANITIZE),,-Wl,-z,defs)
ALL_FLAGS    = $(CC) $(CFLAGS_ALL) $(LIB_$(SANITIZE)) $(LDFLAGS_ALL) $(SHARED_FLAGS)

# --- files ---------------------------------------------------------------------------

LIB_SRC  := $(wildcard numa/*.c sync/*.c core/*.c core/arch/$(ARCH)/*.S)
HEADERS  := $(wildcard include/flowcoro/*.h)
obj       = $(patsubst %,$(BUILD)/obj/%.o,$(basename $(1)))

LIB_OBJ  := $(call obj,$(LIB_SRC))
SUPPORT  := $(call obj,$(wildcard tests/support/*.c))
PERF_SUPPORT := $(call obj,$(wildcard perf/support/*.c))
REPORT_OBJ := $(call obj,$(wildcard perf/report/*.c))
EXAMPLE_SUPPORT := $(call obj,$(wildcard examples/support/*.c))
STATIC   := $(BUILD)/libflowcoro.a
SHARED   := $(BUILD)/libflowcoro.so.$(VERSION)
EXAMPLES := $(patsubst %.c,$(BUILD)/%,$(wildcard examples/*.c))
BENCHES  := $(patsubst perf/%.c,%,$(sort $(wildcard perf/*.c)))
PERF     := $(addprefix $(BUILD)/perf/,$(BENCHES))
REPORT   := $(BUILD)/perf/make_report
RIVALS   := $(patsubst %/build,$(BUILD)/%,$(wildcard perf/rivals/*/build))
TESTS    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/test_*.c))
# Under memcheck: programs in one process, that need no exact times. It can round to nearest only.
ifeq ($(SANITIZE),valgrind)
TESTS    := $(addprefix $(BUILD)/tests/test_,arena cancel cancel_task channel channel_model channel_torture container generator \
	handle job job_deque lanes memcheck mutex node_memory offload parallel parker placement registry simulation \
	spawn_options storm sync task timer topology wait)
endif
# With no_sync: not those that are about the process, its memory or its machine, where no coroutine waits for another.
ifeq ($(SANITIZE),no_sync)
TESTS    := $(filter-out $(addprefix $(BUILD)/tests/test_,arena cpu_quota crash death dump fault_scenarios faults fork leaks \
	live_machine machine measure memcheck node_memory node_runtime options placement queue_links registry short_memory \
	stack switch topology),$(TESTS))
endif
GUEST    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/numa/guest_*.c))
GUEST_SUPPORT := $(BUILD)/obj/tests/numa/guest.o
PROGRAMS := $(call obj,$(wildcard tests/programs/*.c))
SCENARIOS := $(call obj,$(wildcard tests/scenarios/*.c))
SIMULATION := $(call obj,$(wildcard tests/simulation/*.c))
TORTURE  := $(call obj,$(wildcard tests/torture/*.c))
OBJ      := $(LIB_OBJ) $(SUPPORT) $(GUEST_SUPPORT) $(PROGRAMS) $(SCENARIOS) $(SIMULATION) $(TORTURE) $(PERF_SUPPORT) \
	$(REPORT_OBJ) $(EXAMPLE_SUPPORT) \
	$(patsubst $(BUILD)/%,$(BUILD)/obj/%.o,$(EXAMPLES) $(PERF) $(TESTS) $(GUEST))

# --- what to build -------------------------------------------------------------------

.PHONY: all demo check torture check-arm64 check-sanitize check-bugs check-model check-numa lint coverage install uninstall \
	perf perf-page perf-report perf-publish perf-instructions perf-compare \
	clean help lib tests packages run-demo run-check \
	run-check-numa FORCE
.SECONDARY: $(OBJ)

all: lib $(EXAMPLES) $(PERF) $(REPORT)
lib: $(STATIC) $(SHARED)
tests: $(TESTS)

$(STATIC): $(LIB_OBJ)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(SHARED): $(LIB_OBJ) core/flowcoro.map
	$(call say,LINK)
	$(Q)$(CC) $(SHARED_FLAGS) -o $@ $(LIB_OBJ) $(LDFLAGS_ALL) $(DEPS_LIBS)
	$(Q)ln -sf $(@F) $(BUILD)/$(SONAME) && ln -sf $(SONAME) $(BUILD)/libflowcoro.so

link = $(Q)mkdir -p $(@D) && $(CC) -o $@ $(filter %.o,$^) $(STATIC) $(LDFLAGS_ALL) $(1) $(DEPS_LIBS) -lm

$(EXAMPLES): $(BUILD)/%: $(BUILD)/obj/%.o $(EXAMPLE_SUPPORT) $(STATIC)
	$(call say,LINK)
	$(call link,-lz)

$(PERF): $(BUILD)/%: $(BUILD)/obj/%.o $(PERF_SUPPORT) $(STATIC)
	$(call say,LINK)
	$(call link)

$(REPORT): $(REPORT_OBJ)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) -o $@ $^ $(LDFLAGS_ALL) -lm

$(GUEST): $(GUEST_SUPPORT)
$(BUILD)/tests/test_fault_scenarios: $(SCENARIOS)
$(BUILD)/tests/test_simulation: $(PROGRAMS) $(SIMULATION)
$(BUILD)/tests/test_torture: $(PROGRAMS) $(TORTURE)
$(TESTS) $(GUEST): $(BUILD)/%: $(BUILD)/obj/%.o $(SUPPORT) $(STATIC)
	$(call say,LINK)
	$(call link,$(call pkg,--libs cmocka,-lcmocka))

RIVALS_FAILED = cat $(RIVALS:=.missing) 2>/dev/null | grep -q 'does not build'

rivals: $(RIVALS)
	@! $(RIVALS_FAILED)

# What a rival lacks, or that it does not build, is reported, and the benchmarks leave it out.
.SECONDEXPANSION:
$(RIVALS): $(BUILD)/%: $$(wildcard %/* %/*/* perf/rivals/*.* perf/support/work.h)
	$(call say,RIVAL)
	$(Q)mkdir -p $(@D) && rm -f $@ $@.missing && { lacks=$$($*/build $(abspath $@)); status=$$?; \
		[ $$status = 77 ] || lacks='it does not build'; \
		[ $$status = 0 ] || { rm -f $@; echo "  missing $*: $$lacks"; echo "$$lacks" >$@.missing; }; }

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	$(call say,CC)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) $(if $(filter $@,$(LIB_OBJ)),$(LIB_$(SANITIZE))) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.o: %.S $(BUILD)/flags
	$(call say,AS)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# Changes only when the compiler or its flags do, and then everything is built anew.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D) && echo '$(ALL_FLAGS)' | cmp -s - $@ || echo '$(ALL_FLAGS)' > $@

-include $(OBJ:.o=.d)

# --- what to run ---------------------------------------------------------------------

# make has read this file before the packages are there, hence the second make.
JOBS = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 1))

demo check check-numa: packages
	@+$(MAKE) --no-print-directory $(JOBS) run-$@

packages:
	@.ci/packages $(if $(filter clang%,$(CC)),clang)

DEMO_TREE := $(firstword $(wildcard /usr/share/doc /usr/include))

run-demo: all
	$(BUILD)/examples/hello_world
	$(BUILD)/examples/file_batch --totals $(DEMO_TREE)
	$(BUILD)/examples/numa_map

run-check: $(if $(filter no_sync valgrind,$(SANITIZE)),lib,$(if $(SANITIZE),lib $(EXAMPLES),all)) tests
	@BUILD='$(BUILD)' CC='$(CC)' MAKE='$(MAKE)' SANITIZE='$(SANITIZE)' DEBUG='$(DEBUG)' \
		PKG_CONFIG='$(PKG_CONFIG)' tests/run.sh $(notdir $(TESTS))

# The test programs once more, watched in four ways.
check-sanitize:
	@.ci/packages sanitize
	@MAKE='$(MAKE)' tests/sanitize.sh

# The same as in run-check, but deeper, and with every mutant. What cannot be installed is skipped.
check-model:
	@.ci/packages models || true
	@BUILD='$(BUILD)' CC='$(CC)' tests/check_model.sh full

# Which lines and branches of the library the tests run. Children that are killed do not count.
coverage:
	@.ci/packages coverage
	@find build/coverage -name '*.gcda' -delete 2>/dev/null || true
	@+$(MAKE) --no-print-directory $(JOBS) SANITIZE=coverage run-check
	@gcovr --root . --object-directory build/coverage --filter core/ --filter numa/ --filter sync/ \
		--gcov-ignore-parse-errors --print-summary --txt build/coverage/lines.txt build/coverage/obj/core \
		build/coverage/obj/numa build/coverage/obj/sync && cat build/coverage/lines.txt

# Needs clang-tidy, cppcheck and gcc.
lint:
	@.ci/packages lint
	@tests/lint.sh

# Needs no more of this machine than a cross compiler and qemu-user.
check-arm64:
	@.ci/packages arm64 && MAKE='$(MAKE)' tests/arm64.sh

# Bugs put in on purpose, in a copy of the tree, and the test programs that have to notice. Takes a quarter of an hour.
check-bugs:
	@BUILD='$(BUILD)' CC='$(CC)' MAKE='$(MAKE)' tests/run_bugs.sh

# Everything at once, for as long as one likes; the exit status tells. SANITIZE= works here too.
SECONDS ?= 60

torture: packages
	@+$(MAKE) --no-print-directory $(JOBS) $(BUILD)/tests/test_torture
	@ulimit -S -c 0; FLOW_TORTURE_SECONDS=$(SECONDS) $(if $(SANITIZE),setarch -R) $(BUILD)/tests/test_torture

# Not a part of run-check: it boots machines, and takes minutes.
run-check-numa: $(GUEST) $(BUILD)/examples/numa_map
	@BUILD='$(BUILD)' tests/numa/run.sh

# Where perf stat works its counts are shown too; virtual machines often lack the hardware ones.
RESULTS  = $(BUILD)/perf/results
COUNTERS = cycles,instructions,branch-misses,cache-misses

# A program that has come to its end has said so in the last line: perf stat gives 0 for one that a signal killed.
perf: $(PERF) $(RIVALS)
	@mkdir -p $(RESULTS); rm -f $(patsubst %,$(RESULTS)/%.*,$(notdir $(PERF))); \
	if perf stat -e task-clock true >/dev/null 2>&1; then \
		works=yes; \
		absent=$$(perf stat -e $(COUNTERS) true 2>&1 | awk '/<not/ { print $$3 }' | paste -sd' '); \
		echo "hardware counters absent: $${absent:-none}"; \
	else \
		works=; echo 'perf stat does not work here: no counters at all'; \
	fi; \
	failed=0; ! $(RIVALS_FAILED) || failed=1; \
	for program in $(PERF); do \
		result=$(RESULTS)/$${program##*/}; echo "== $${program##*/}"; \
		$${works:+perf stat -d -o $$result.stat} $$program --json $$result.jsonl $(PERF_ARGS) > $$result.txt 2>&1; \
		cat $$result.txt; \
		tail -n 1 $$result.jsonl 2>/dev/null | grep -q '"complete":true' || { echo "FAILED $$program"; failed=1; }; \
		[ -z "$$works" ] || grep -v 'not supported\|^#\|^ *$$' $$result.stat; \
	done; \
	echo "saved under $(RESULTS)"; exit $$failed

# The page of what `make perf` has measured; perf-report measures first. Results to keep: `make
# perf-publish MACHINE=name` puts them and their page under perf/results/.
perf-page: $(REPORT)
	@rm -f $(BUILD)/perf/report.html $(BUILD)/perf/ratios.svg
	$(REPORT) $(RESULTS) $(BUILD)/perf $(BENCHES)
	@echo "written: $(BUILD)/perf/report.html"

perf-report: $(PERF) $(REPORT)
	@$(MAKE) --no-print-directory perf; status=$$?; \
		$(MAKE) --no-print-directory perf-instructions || status=$$?; \
		$(MAKE) --no-print-directory perf-page && exit $$status

perf-publish: perf-page
	@[ -n '$(MACHINE)' ] || { echo 'MACHINE=name says which machine this is'; exit 2; }
	mkdir -p perf/results/$(MACHINE)
	rm -f perf/results/$(MACHINE)/*.jsonl
	cp $(RESULTS)/*.jsonl $(BUILD)/perf/report.html $(BUILD)/perf/ratios.svg perf/results/$(MACHINE)

# Instructions of the hot paths, counted by callgrind: the same on a busy machine. perf-compare counts
# them in another revision's sources too.
COUNT = BUILD='$(BUILD)' CC='$(CC)' LIBS='$(DEPS_LIBS)' perf/instructions/count.sh

perf-instructions: $(STATIC)
	@$(COUNT) $(if $(UPDATE),update,show)

perf-compare: $(STATIC)
	@$(COUNT) compare $(BASE)

# --- installing ----------------------------------------------------------------------

INCLUDE_DIR = $(DESTDIR)$(PREFIX)/include
LIB_DIR     = $(DESTDIR)$(PREFIX)/lib
# Where gdb looks for what belongs to $(PREFIX)/lib/$(notdir $(SHARED)), if PREFIX is /usr.
GDB_DIR     = $(DESTDIR)$(PREFIX)/share/gdb/auto-load$(abspath $(PREFIX))/lib
GDB_SCRIPT  = $(GDB_DIR)/$(notdir $(SHARED))-gdb.py

# For who uses the library: a frame larger than a page must not step over a guard page. On aarch64 clang before 18
# only warns of it, and gcc needs a second flag; see README.
PC_CFLAGS_x86_64 := -fstack-clash-protection

define FLOWCORO_PC
prefix=$(PREFIX)
includedir=$${prefix}/include
libdir=$${prefix}/lib

Name: flowcoro
Description: Stackful coroutines on one pinned worker per CPU
Version: $(VERSION)
Requires.private: numa liburcu-memb
Libs: -L$${libdir} -lflowcoro
Libs.private: -pthread
Cflags: -I$${includedir} $(PC_CFLAGS_$(ARCH))
endef
export FLOWCORO_PC

$(BUILD)/flowcoro.pc: FORCE
	@mkdir -p $(@D) && printf '%s\n' "$$FLOWCORO_PC" > $@

install: lib $(BUILD)/flowcoro.pc
	$(Q)install -d $(INCLUDE_DIR)/flowcoro $(LIB_DIR)/pkgconfig
	$(Q)install -m 644 include/flowcoro.h $(INCLUDE_DIR)
	$(Q)install -m 644 $(HEADERS) $(INCLUDE_DIR)/flowcoro
	$(Q)install -m 644 $(STATIC) $(LIB_DIR)
	$(Q)install -m 755 $(SHARED) $(LIB_DIR)
	$(Q)ln -sf $(notdir $(SHARED)) $(LIB_DIR)/$(SONAME)
	$(Q)ln -sf $(SONAME) $(LIB_DIR)/libflowcoro.so
	$(Q)install -m 644 $(BUILD)/flowcoro.pc $(LIB_DIR)/pkgconfig
	$(Q)install -d $(GDB_DIR)
	$(Q)install -m 644 core/flowcoro-gdb.py $(GDB_SCRIPT)

uninstall:
	$(Q)rm -f $(INCLUDE_DIR)/flowcoro.h $(addprefix $(INCLUDE_DIR)/flowcoro/,$(notdir $(HEADERS)))
	$(Q)rm -f $(addprefix $(LIB_DIR)/,libflowcoro.a libflowcoro.so $(SONAME) $(notdir $(SHARED)))
	$(Q)rm -f $(LIB_DIR)/pkgconfig/flowcoro.pc $(GDB_SCRIPT)
	$(Q)rmdir $(INCLUDE_DIR)/flowcoro 2>/dev/null || true

clean:
	$(Q)rm -rf $(BUILD)

help:
	@echo 'make all        libraries, examples, benchmarks    (V=1, DEBUG=1, SANITIZE=address|thread|...)'
	@echo 'make demo       installs what is missing, then runs the examples'
	@echo 'make check      installs what is missing, then runs every test'
	@echo 'make check-sanitize runs them under ASan, UBSan, LSan, TSan and memcheck'
	@echo 'make check-bugs puts bugs into a copy of the tree, one at a time, and has the tests find them'
	@echo 'make coverage   runs the tests and shows which lines and branches of the library they reach'
	@echo 'make lint       clang-tidy, cppcheck and gcc -fanalyzer over the library'
	@echo 'make torture    runs everything at once, a line every 10 s (SECONDS=$(SECONDS))'
	@echo 'make check-model explores the models of sync/, and the faults put into them'
	@echo 'make check-arm64 builds them for aarch64 and runs them under an emulator'
	@echo 'make check-numa boots machines of several memory nodes with QEMU, and tests there'
	@echo 'make perf       runs the benchmarks                (PERF_ARGS=--quick)'
	@echo 'make perf-report the same, and build/perf/report.html'
	@echo 'make perf-instructions counts what the hot paths execute (UPDATE=1: makes it the baseline)'
	@echo 'make perf-compare counts them before and after     (BASE=revision)'
	@echo 'make rivals     builds what they are compared with, where its compiler and library are'
	@echo 'make install    headers, libraries, flowcoro.pc    (PREFIX=$(PREFIX) DESTDIR=)'
	@echo 'make uninstall  removes exactly those'
	@echo 'make clean      removes $(BUILD)/'
