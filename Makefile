# libflowcoro. `make help` lists the targets; everything built lies under build/.
#
#   make SANITIZE=address|thread   gcc's ASan and UBSan, clang's TSan; under build/address, build/thread
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

ifneq ($(filter-out address thread,$(SANITIZE)),)
$(error SANITIZE is '$(SANITIZE)'; it may be address or thread)
endif

# --- tools ---------------------------------------------------------------------------

ifeq ($(origin CC),default)
CC := $(if $(filter thread,$(SANITIZE)),clang,$(CROSS)gcc)
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
HARDEN_aarch64 := -mbranch-protection=standard
SANITIZE_address := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZE_thread  := -O1 -fno-omit-frame-pointer -fsanitize=thread

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
ALL_FLAGS    = $(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(SHARED_FLAGS)

# --- files ---------------------------------------------------------------------------

LIB_SRC  := $(wildcard numa/*.c sync/*.c core/*.c core/arch/$(ARCH)/*.S)
HEADERS  := $(wildcard include/flowcoro/*.h)
obj       = $(patsubst %,$(BUILD)/obj/%.o,$(basename $(1)))

LIB_OBJ  := $(call obj,$(LIB_SRC))
SUPPORT  := $(call obj,$(wildcard tests/support/*.c))
PERF_SUPPORT := $(call obj,$(wildcard perf/support/*.c))
EXAMPLE_SUPPORT := $(call obj,$(wildcard examples/support/*.c))
STATIC   := $(BUILD)/libflowcoro.a
SHARED   := $(BUILD)/libflowcoro.so.$(VERSION)
EXAMPLES := $(patsubst %.c,$(BUILD)/%,$(wildcard examples/*.c))
PERF     := $(patsubst %.c,$(BUILD)/%,$(wildcard perf/*.c))
RIVALS   := $(patsubst %/build,$(BUILD)/%,$(wildcard perf/rivals/*/build))
TESTS    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/test_*.c))
GUEST    := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/numa/guest_*.c))
GUEST_SUPPORT := $(BUILD)/obj/tests/numa/guest.o
OBJ      := $(LIB_OBJ) $(SUPPORT) $(GUEST_SUPPORT) $(PERF_SUPPORT) $(EXAMPLE_SUPPORT) \
	$(patsubst $(BUILD)/%,$(BUILD)/obj/%.o,$(EXAMPLES) $(PERF) $(TESTS) $(GUEST))

# --- what to build -------------------------------------------------------------------

.PHONY: all demo check check-model check-numa perf install uninstall clean help lib tests packages run-demo run-check \
	run-check-numa FORCE
.SECONDARY: $(OBJ)

all: lib $(EXAMPLES) $(PERF)
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

$(GUEST): $(GUEST_SUPPORT)
$(TESTS) $(GUEST): $(BUILD)/%: $(BUILD)/obj/%.o $(SUPPORT) $(STATIC)
	$(call say,LINK)
	$(call link,$(call pkg,--libs cmocka,-lcmocka))

rivals: $(RIVALS)

# What a rival lacks is reported, and the benchmarks leave it out.
.SECONDEXPANSION:
$(RIVALS): $(BUILD)/%: $$(wildcard %/*)
	$(call say,RIVAL)
	$(Q)mkdir -p $(@D) && { lacks=$$($*/build $(abspath $@)); status=$$?; \
		[ $$status != 77 ] || { echo "  missing $*: $$lacks"; status=0; }; exit $$status; }

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	$(call say,CC)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

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

run-check: all tests
	@BUILD='$(BUILD)' CC='$(CC)' MAKE='$(MAKE)' SANITIZE='$(SANITIZE)' DEBUG='$(DEBUG)' \
		PKG_CONFIG='$(PKG_CONFIG)' tests/run.sh $(notdir $(TESTS))

# The same as in run-check, but deeper, and with every mutant. Needs a compiler only.
check-model:
	@BUILD='$(BUILD)' CC='$(CC)' tests/check_model.sh full

# Not a part of run-check: it boots machines, and takes minutes.
run-check-numa: $(GUEST) $(BUILD)/examples/numa_map
	@BUILD='$(BUILD)' tests/numa/run.sh

# Where perf stat works its counts are shown too; virtual machines often lack the hardware ones.
RESULTS  = $(BUILD)/perf/results
COUNTERS = cycles,instructions,branch-misses,cache-misses

perf: $(PERF) rivals
	@mkdir -p $(RESULTS); \
	if perf stat -e task-clock true >/dev/null 2>&1; then \
		works=yes; \
		absent=$$(perf stat -e $(COUNTERS) true 2>&1 | awk '/<not/ { print $$3 }' | paste -sd' '); \
		echo "hardware counters absent: $${absent:-none}"; \
	else \
		works=; echo 'perf stat does not work here: no counters at all'; \
	fi; \
	failed=0; \
	for program in $(PERF); do \
		result=$(RESULTS)/$${program##*/}; echo "== $${program##*/}"; \
		$${works:+perf stat -d -o $$result.stat} $$program $(PERF_ARGS) > $$result.txt 2>&1 || \
			{ echo "FAILED $$program"; failed=1; }; \
		cat $$result.txt; \
		[ -z "$$works" ] || grep -v 'not supported\|^#\|^ *$$' $$result.stat; \
	done; \
	echo "saved under $(RESULTS)"; exit $$failed

# --- installing ----------------------------------------------------------------------

INCLUDE_DIR = $(DESTDIR)$(PREFIX)/include
LIB_DIR     = $(DESTDIR)$(PREFIX)/lib

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
Cflags: -I$${includedir}
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

uninstall:
	$(Q)rm -f $(INCLUDE_DIR)/flowcoro.h $(addprefix $(INCLUDE_DIR)/flowcoro/,$(notdir $(HEADERS)))
	$(Q)rm -f $(addprefix $(LIB_DIR)/,libflowcoro.a libflowcoro.so $(SONAME) $(notdir $(SHARED)))
	$(Q)rm -f $(LIB_DIR)/pkgconfig/flowcoro.pc
	$(Q)rmdir $(INCLUDE_DIR)/flowcoro 2>/dev/null || true

clean:
	$(Q)rm -rf $(BUILD)

help:
	@echo 'make all        libraries, examples, benchmarks    (V=1, DEBUG=1, SANITIZE=address|thread)'
	@echo 'make demo       installs what is missing, then runs the examples'
	@echo 'make check      installs what is missing, then runs every test'
	@echo 'make check-model explores the models of sync/, and the faults put into them'
	@echo 'make check-numa boots machines of several memory nodes with QEMU, and tests there'
	@echo 'make perf       runs the benchmarks                (PERF_ARGS=--json)'
	@echo 'make rivals     builds what they are compared with, where its compiler and library are'
	@echo 'make install    headers, libraries, flowcoro.pc    (PREFIX=$(PREFIX) DESTDIR=)'
	@echo 'make uninstall  removes exactly those'
	@echo 'make clean      removes $(BUILD)/'
