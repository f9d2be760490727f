# SPDX-License-Identifier: MIT
#
# For gdb: the coroutines of a live process or a core file that uses libflowcoro.
#
#   (gdb) source flowcoro-gdb.py       not needed where gdb loads it by itself, see `make install`
#   (gdb) flow list                    a line for each: id, state, what it waits for, name, origin
#   (gdb) flow bt ID [as of backtrace] the stack of one; ID as flow list or flow_dump show it
#   (gdb) flow bt all                  of all of them, equal ones together
#   (gdb) flow core FILE               as generate-core-file, with the stacks (live processes)
#
# It reads the library's own structures, so the library must have its debug information. A stack is
# unwound by gdb itself: while `flow bt` runs, an unwinder makes the saved context of the coroutine
# look like the caller of whatever the selected thread is doing. No register and no memory is written,
# so it works on core files too.

import gdb
import gdb.unwinder

STACK_MIN_SHIFT = 14  # core/stack.h; each header is checked against them: see Task.header
CACHE_LINE = 64

# What flow__switch leaves at a context's stack pointer, and how much of it: core/arch/*/switch.S.
LAYOUTS = {
    "i386:x86-64": (["r15", "r14", "r13", "r12", "rbx", "rbp", "rip"], 56, "rsp"),
    "aarch64": (["x29", "pc"] + ["x%d" % n for n in range(19, 29)], 160, "sp"),
}


def word_type():
    return gdb.lookup_type("unsigned long")


def read_words(address, n):
    """n words of memory, as numbers."""
    memory = bytes(gdb.selected_inferior().read_memory(address, 8 * n))
    return [int.from_bytes(memory[i : i + 8], "little") for i in range(0, 8 * n, 8)]


def constant(name):
    return int(gdb.parse_and_eval(name))


def symbol_at(address):
    """A name for a code address."""
    text = gdb.execute("info symbol %#x" % (address - 1), to_string=True)
    return text.split(" in section")[0].strip() if "in section" in text else "%#x" % address


class Unwinder(gdb.unwinder.Unwinder):
    """Shows a saved context as the caller of the newest frame."""

    def __init__(self):
        super().__init__("flowcoro")
        self.context = None

    def __call__(self, frame):
        if self.context is None:
            return None
        names, size, sp_name = LAYOUTS[frame.architecture().name()]
        sp = frame.read_register(sp_name)
        if int(sp) != self.newest_sp:
            return None
        # The frame is given an address below the context, or gdb would take the stack for corrupt.
        place = type("Place", (), {})()
        place.sp = gdb.Value(self.context - 16).cast(sp.type)
        place.pc = frame.read_register("pc")
        info = frame.create_unwind_info(place)
        for name, value in zip(names, read_words(self.context, len(names))):
            if name == "pc":
                value &= (1 << 48) - 1  # it may be signed
            info.add_saved_register(name, gdb.Value(value).cast(frame.read_register(name).type))
        info.add_saved_register(sp_name, gdb.Value(self.context + size).cast(sp.type))
        return info

    def backtrace(self, context, arguments):
        """The text of a backtrace that begins with who has called flow__switch."""
        thread = gdb.selected_thread() or gdb.selected_inferior().threads()[0]
        thread.switch()
        newest = gdb.newest_frame()
        self.newest_sp = int(newest.read_register(LAYOUTS[newest.architecture().name()][2]))
        try:
            self.context = context
            gdb.invalidate_cached_frames()
            text = gdb.execute("backtrace " + arguments, to_string=True)
        finally:
            self.context = None
            gdb.invalidate_cached_frames()
        return renumber(text)


def renumber(text):
    """Without frame 0, which is the thread's own."""
    out, shown = [], True
    for line in text.splitlines():
        if line.startswith("#"):
            number, rest = line[1:].split(None, 1)
            shown = int(number) > 0
            line = "#%-3d%s" % (int(number) - 1, rest)
        if shown:
            out.append(line)
    return "\n".join(out)


class Task:
    """One block of the registry, from its bytes."""

    def __init__(self, world, slot, memory):
        self.world, self.slot = world, slot
        self.memory = memory
        self.life = self.field("life")

    def field(self, name):
        offset, size = self.world.fields[name]
        return int.from_bytes(self.memory[offset : offset + size], "little")

    def is_live(self):
        w = self.world
        return self.life != 0 and not self.life & (w.FREE | w.FINISHED)

    @property
    def id(self):
        return (self.life >> 32 << 32) | self.slot

    @property
    def stack(self):
        return self.field("stack")

    @property
    def sp(self):
        return self.field("strand")  # the context is its first member, and the pointer the context's

    def stack_bytes(self):
        return 1 << (STACK_MIN_SHIFT + self.field("stack_class"))

    def header(self):
        """The structure at the stack's top, or None if that is not it."""
        shift = STACK_MIN_SHIFT + self.field("stack_class")
        colour = ((self.stack - self.world.stacks_base) >> shift) & 15
        type_ = gdb.lookup_type("struct flow__stack_header")
        at = self.stack + (1 << shift) - colour * CACHE_LINE - type_.sizeof
        header = gdb.Value(at).cast(type_.pointer()).dereference()
        return header if int(header["task"]) == self.world.base + self.slot * self.world.size else None

    def thread(self):
        """The thread that runs on its stack, or None."""
        for sp, thread in self.world.threads:
            if 0 <= sp - self.stack < self.stack_bytes():
                return thread
        return None

    def state(self):
        if not self.stack:
            return "queued"
        if self.thread():
            return "running"
        if self.field("back") & 1:
            return "calling" if self.sp else "running"
        armed = self.field("wait") & self.world.WAIT_STATE in self.world.ARMED
        return "waiting" if armed else "ready"

    def reason(self):
        why = self.world.reasons.get(self.field("why"), "?")
        if self.state() != "waiting":
            return "-"
        header = self.header()
        if header is None or why not in self.world.WITH_OBJECT:
            return why
        at = int(header["waits_for"])
        slot, rest = divmod(at - self.world.base, self.world.size)
        if why in ("join", "all", "sync") and rest == 0 and 0 <= slot < self.world.n_blocks:
            return "%s of %#x" % (why, self.world.task(slot).id)
        return "%s at %#x" % (why, at)

    def name(self):
        detail = self.field("detail")
        if not detail:
            return ""
        type_ = gdb.lookup_type("struct flow__detail").pointer()
        text = gdb.Value(detail).cast(type_)["name"].string(errors="replace")
        return "".join(c if c >= " " else "?" for c in text)

    def worker(self):
        index, rest = divmod(self.field("home") - self.world.workers, self.world.worker_size)
        return str(index) if self.stack and rest == 0 else "-"

    def backtrace(self, arguments):
        thread = self.thread()
        if thread:
            thread.switch()
            return gdb.execute("backtrace " + arguments, to_string=True).rstrip()
        if not self.stack:
            return "it has not started"
        if not 0 <= self.sp - self.stack < self.stack_bytes():
            return "it runs, but no thread is on its stack: on one for signals?"
        return UNWINDER.backtrace(self.sp, arguments)


class World:
    """The runtime as it stands."""

    WITH_OBJECT = ("join", "all", "sync", "scope", "mutex", "rwlock", "semaphore", "condition", "event",
                   "waitgroup", "barrier", "send", "recv")

    def __init__(self):
        try:
            registry = gdb.parse_and_eval("flow__registry")
            runtime = gdb.parse_and_eval("flow__runtime")
            type_ = gdb.lookup_type("struct flow__task")
            self.WAIT_STATE = constant("FLOW__WAIT_STATE")
            self.ARMED = (constant("FLOW__WAIT_ARMED"), constant("FLOW__WAIT_SHIELDED"))
            self.FREE, self.FINISHED = constant("FLOW__LIFE_FREE"), constant("FLOW__LIFE_FINISHED")
            self.IS_THREAD = constant("FLOW__IS_THREAD")
        except gdb.error as error:
            raise gdb.GdbError("libflowcoro is not there, or has no debug information: %s" % error)
        if int(runtime["state"]) == 0:
            raise gdb.GdbError("the runtime is not running")
        self.fields, self.size = {}, type_.sizeof
        self.add_fields(type_, 0)
        self.base, self.n_blocks = int(registry["base"]), int(registry["n_blocks"])
        self.depots, self.n_nodes = registry["depot"], int(registry["n_nodes"])
        self.stacks_base = int(gdb.parse_and_eval("flow__stacks")["base"])
        self.workers = int(runtime["workers"])
        self.worker_size = gdb.lookup_type("struct flow__worker").sizeof
        enum = gdb.lookup_type("enum flow__why")
        self.reasons = {f.enumval: f.name.replace("FLOW__WHY_", "").lower() for f in enum.fields()}
        self.threads = self.all_threads()

    def add_fields(self, type_, offset):
        for f in type_.fields():
            at = offset + f.bitpos // 8
            if f.name:
                self.fields.setdefault(f.name, (at, f.type.sizeof))
            elif f.type.code in (gdb.TYPE_CODE_UNION, gdb.TYPE_CODE_STRUCT):
                self.add_fields(f.type, at)

    @staticmethod
    def all_threads():
        """Each thread, with its stack pointer."""
        selected, found = gdb.selected_thread(), []
        for thread in gdb.selected_inferior().threads():
            thread.switch()
            frame = gdb.newest_frame()
            found.append((int(frame.read_register(LAYOUTS[frame.architecture().name()][2])), thread))
        if selected:
            selected.switch()
        return found

    def task(self, slot):
        memory = gdb.selected_inferior().read_memory(self.base + slot * self.size, self.size)
        return Task(self, slot, bytes(memory))

    def tasks(self):
        """All live ones."""
        inferior = gdb.selected_inferior()
        for node in range(self.n_nodes):
            first, used = int(self.depots[node]["first"]), int(self.depots[node]["used"])
            while first < used:
                n = min(4096, used - first)
                memory = bytes(inferior.read_memory(self.base + first * self.size, n * self.size))
                for i in range(n):
                    task = Task(self, first + i, memory[i * self.size : (i + 1) * self.size])
                    if task.is_live() and not task.field("flags") & self.IS_THREAD:
                        yield task
                first += n

    def find(self, text):
        task_id = int(gdb.parse_and_eval(text))
        slot = task_id & 0xFFFFFFFF
        task = self.task(slot) if slot < self.n_blocks else None
        if task is None or not task.is_live() or task.id != task_id:
            raise gdb.GdbError("there is no live task %s" % text)
        return task


class with_thread_kept:
    """What is selected stays selected."""

    def __enter__(self):
        self.thread = gdb.selected_thread()
        try:
            self.frame = gdb.selected_frame()
        except gdb.error:
            self.frame = None

    def __exit__(self, *unused):
        if self.thread and self.thread.is_valid():
            self.thread.switch()
        if self.frame and self.frame.is_valid():
            self.frame.select()


class FlowCommand(gdb.Command):
    """Coroutines of libflowcoro: flow list, flow bt ID, flow bt all, flow core FILE."""

    def __init__(self):
        super().__init__("flow", gdb.COMMAND_STACK, prefix=True)


class FlowList(gdb.Command):
    """Lists all live coroutines: id, state, what for, worker, stack, name, where spawned."""

    def __init__(self):
        super().__init__("flow list", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        n, sites = 0, {}
        with with_thread_kept():
            for task in World().tasks():
                site = task.field("spawn_site")
                sites.setdefault(site, symbol_at(site))
                print('%#x %-7s %-28s worker %s stack %d KiB "%s" spawned at %s' % (
                    task.id, task.state(), task.reason(), task.worker(), task.stack_bytes() // 1024,
                    task.name(), sites[site]))
                n += 1
        print("%d tasks" % n)


class FlowBacktrace(gdb.Command):
    """The stack of one coroutine, flow bt ID [arguments of backtrace], or of all: flow bt all."""

    def __init__(self):
        super().__init__("flow bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        what, _, rest = argument.partition(" ")
        if not what:
            raise gdb.GdbError("flow bt ID, or flow bt all")
        with with_thread_kept():
            if what != "all":
                print(World().find(what).backtrace(rest))
                return
            groups = {}
            for task in World().tasks():
                # Without a difference in arguments: what it shows is the first one's.
                text = task.backtrace(rest)
                key = tuple(line.split(" (")[0] for line in text.splitlines() if line[:1] == "#")
                groups.setdefault((task.state(),) + key, [text]).append(task)
            for key, (text, *tasks) in sorted(groups.items(), key=lambda g: -len(g[1])):
                ids = ", ".join("%#x" % task.id for task in tasks[:4])
                more = ", ..." if len(tasks) > 4 else ""
                print("%d %s: %s%s\n%s\n" % (len(tasks), key[0], ids, more, text))


class FlowCore(gdb.Command):
    """As generate-core-file, with the stacks of coroutines: gdb cannot read their guard pages, and
    leaves out what follows one. They are taken away meanwhile. For a live process."""

    def __init__(self):
        super().__init__("flow core", gdb.COMMAND_STACK, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        locking = gdb.parameter("scheduler-locking")
        gdb.execute("set scheduler-locking on")
        try:
            gdb.execute("call (void)flow__guards_lift()", to_string=True)
            try:
                gdb.execute("generate-core-file " + argument)
            finally:
                gdb.execute("call (void)flow__guards_restore()", to_string=True)
        finally:
            gdb.execute("set scheduler-locking " + locking)


UNWINDER = Unwinder()
gdb.unwinder.register_unwinder(None, UNWINDER, replace=True)
FlowCommand()
FlowList()
FlowBacktrace()
FlowCore()
