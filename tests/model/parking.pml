/* SPDX-License-Identifier: MIT
 *
 * Parking, for spin: work that was submitted is run in the end, whatever the order of steps, as long as
 * every thread goes on (weak fairness). The explorer finds the deadlock of a bounded run; this is
 * about runs without end.
 *
 * Names are those of sync/parker.c; what a worker does is that of core/scheduler.c (next_local,
 * find_work, stop_searching) and core/park.c (flow__park), what a submitter does that of core/queues.c
 * (flow__submit_from_thread, flow__send). One group without a sentry, N workers; a number stands for a
 * queue, which takes MOST pieces. Each statement that others can see is one step. Steps take effect at once: weak
 * memory is Relacy's business.
 *
 * scenario quick N=2 SUBMITTERS=1 SENDERS=0 MOST=2
 * scenario quick N=2 SUBMITTERS=0 SENDERS=1 MOST=2
 * scenario full N=2 SUBMITTERS=2 SENDERS=0 MOST=1
 * scenario full N=2 SUBMITTERS=1 SENDERS=1 MOST=2
 */
mtype = { RUNNING, PARKED, NOTIFIED, SUMMONED };

mtype word[N] = RUNNING; /* flow__parker */
byte map, searchers, sleepers; /* flow__idle */
bool asleep[N]; /* in futex_wait */
byte queue, inbox[N]; /* the group's, each worker's */
byte running; /* pieces of the group's queue that have been taken and not yet run */

inline claim(v, as)
{
    if
    :: atomic { word[v] == PARKED -> word[v] = as; claimed = true }
        asleep[v] = false /* futex_wake */
    :: else
    fi
}

/* The next from v on that is on the map and really sleeps; N if there is none. Two looks: at the map,
 * then at the words. */
inline next_sleeper()
{
    sleeping = map;
    d_step {
        do
        :: v < N && !(sleeping & (1 << v) && word[v] == PARKED) -> v++
        :: else -> break
        od;
        sleeping = 0
    }
}

/* flow__idle_wants_wake and flow__idle_wake_one */
inline wake_one()
{
    do
    :: atomic { sleepers > 0 && searchers == 0 -> searchers++ }
        do
        :: next_sleeper();
            if
            :: v < N ->
                claim(v, SUMMONED);
                if
                :: claimed -> break
                :: else -> v++
                fi
            :: else -> break
            fi
        od;
        atomic { v = 0;
            if
            :: claimed -> claimed = false; break
            :: else
            fi }
        searchers--;
        next_sleeper(); /* a second look */
        atomic {
            if
            :: v == N -> v = 0; break
            :: else -> v = 0
            fi }
    :: else -> break
    od
}

inline announce()
{
    word[w] = PARKED;
    map = map | (1 << w);
    sleepers++
}

/* flow__parker_cancel, and what flow__park makes of it */
inline cancel()
{
    atomic { searching = word[w] == SUMMONED; word[w] = RUNNING }
    map = map & ~(1 << w);
    sleepers--
}

/* flow__parker_wait, without a deadline: while it says PARKED the kernel puts it to sleep. */
inline wait()
{
    do
    :: atomic { word[w] == PARKED -> asleep[w] = true }
        !asleep[w]
    :: else -> break
    od
}

inline stop_searching(success)
{
    if
    :: searching ->
        searching = false;
        if
        :: atomic { searchers == 1 -> searchers-- }
            if
            :: success -> wake_one()
            :: else
            fi
        :: atomic { else -> searchers-- }
        fi
    :: else
    fi
}

/* poll: flow__grab_shared */
inline grab()
{
    if
    :: atomic { queue > 0 -> queue--; running++; got = true }
        wake_one()
    :: else
    fi
}

inline park()
{
    announce();
    if /* flow__anything_visible */
    :: inbox[w] > 0 -> cancel()
    :: else ->
        if
        :: queue > 0 -> cancel()
        :: else ->
            wait();
            cancel()
        fi
    fi
}

/* next_local: a look at the group's queue, then into the inbox */
inline next_local()
{
    grab();
    if
    :: atomic { inbox[w] > 0 -> inbox[w] = 0; found = true } /* flow__inbox_take_all */
    :: else
    fi
}

/* run_until_end */
active [N] proctype worker()
{
    byte w = _pid, v, sleeping;
    bool searching, found, got, claimed;

    do
    :: next_local();
        if
        :: found || got -> stop_searching(true)
        :: else -> /* find_work */
            if /* flow__idle_start_search */
            :: atomic { !searching && 2 * searchers < N -> searchers++; searching = true }
            :: else
            fi;
            if
            :: searching ->
                next_local(); /* flow__search */
                stop_searching(found || got)
            :: else
            fi;
            if
            :: found || got
            :: else -> park()
            fi
        fi;
        atomic {
            if
            :: got -> running--
            :: else
            fi;
            got = false;
            found = false
        }
    od
}

/* flow__submit_from_thread, as often as it likes. The second one is there for claims in vain. */
active [SUBMITTERS] proctype submitter()
{
    byte v, sleeping;
    bool claimed;

    do
    :: atomic { queue < MOST -> queue++ }
        wake_one()
    :: break
    od
}

/* flow__send to worker 0 */
active [SENDERS] proctype sender()
{
    bool claimed;

    do
    :: atomic { inbox[0] == 0 -> inbox[0]++ }
        claim(0, NOTIFIED); /* flow__parker_notify, by who found it empty */
        claimed = false
    :: atomic { inbox[0] > 0 && inbox[0] < MOST -> inbox[0]++ }
    :: break
    od
}

/* A waker whose claims are in vain again and again, since those it finds get up by themselves, is
 * kept from its own inbox as long as there is always new work for them: no longer. */
ltl queue_is_run { [] <> (queue == 0 || running > 0) }
ltl inbox_is_taken { [] <> (inbox[0] == 0 || queue > 0) }
