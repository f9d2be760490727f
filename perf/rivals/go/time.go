// SPDX-License-Identifier: MIT
//
// Timers and delays: the cases of perf/timers.c, wake.c, idle.c, burst.c, fairness.c and skew.c.
package main

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// n timers that never fire; a million times, in no order, one is stopped and set anew.
func rearm(n uint64) uint64 {
	const ops = 1000000
	timers := make([]*time.Timer, n)
	for i := range timers {
		timers[i] = time.AfterFunc(10*time.Second+spread(uint64(i), 50*time.Second), func() { os.Exit(1) })
	}
	stride := uint64(float64(n)*0.618) | 1
	for gcd(stride, n) != 1 {
		stride += 2
	}
	at := uint64(0)
	pass := func(ops uint64) {
		for i := uint64(0); i < ops; i++ {
			at = (at + stride) % n
			timers[at].Stop()
			timers[at].Reset(10*time.Second + spread(i, 50*time.Second))
		}
	}
	pass(ops / 4)
	begin := time.Now()
	pass(ops)
	figure("ns", float64(time.Since(begin))/ops)
	return n
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func sleepLate(n uint64) uint64 {
	late := make([]int64, n)
	for i := range late {
		begin := time.Now()
		time.Sleep(900 * time.Microsecond)
		late[i] = int64(time.Since(begin) - 900*time.Microsecond)
	}
	percentiles(late)
	return n
}

var slept bool

// In the first round all are asleep at once, as perf/timers.c says.
func sleepers(n uint64) uint64 {
	var done uint64
	var longer time.Duration
	if !slept {
		longer = time.Duration(n) * 25 * time.Microsecond
		if longer > 3*time.Second {
			longer = 3 * time.Second
		}
	}
	slept = true
	all(n, func(i uint64) {
		time.Sleep(10*time.Millisecond + spread(i, 40*time.Millisecond) + longer)
		atomic.AddUint64(&done, 1)
	})
	return done
}

// A goroutine with a thread of its own wakes another one, while everything sleeps.
func wake(n uint64) uint64 {
	gate, back := make(chan time.Time, 1), make(chan time.Duration, 1)
	delays := make([]int64, 0, n)
	go func() {
		for begin := range gate {
			back <- time.Since(begin)
		}
	}()
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		for i := uint64(0); i < n+100; i++ {
			time.Sleep(400 * time.Microsecond)
			gate <- time.Now()
			delay := <-back
			if i >= 100 {
				delays = append(delays, int64(delay))
			}
		}
		close(done)
	}()
	<-done
	percentiles(delays)
	return n
}

// Says that it is ready, then has one goroutine that sleeps for long, and ends after n seconds and one.
func idle(n uint64) uint64 {
	go time.Sleep(time.Hour)
	time.Sleep(time.Duration(n+1) * time.Second)
	return n
}

// n times a thousand goroutines at once, when all else sleeps: how long after its spawn each begins.
func burst(n uint64) uint64 {
	const size = 1000
	delays := make([]int64, 0, n*size)
	spawned, started := make([]int64, size), make([]int64, size)
	origin := time.Now()
	for round := uint64(0); round < n+4; round++ {
		time.Sleep(5 * time.Millisecond)
		var group sync.WaitGroup
		group.Add(size)
		for i := 0; i < size; i++ {
			spawned[i] = int64(time.Since(origin))
			go func(i int) {
				started[i] = int64(time.Since(origin))
				group.Done()
			}(i)
		}
		group.Wait()
		for i := 0; round >= 4 && i < size; i++ {
			delays = append(delays, started[i]-spawned[i])
		}
	}
	percentiles(delays)
	return n
}

// Every millisecond a goroutine is started beside two that keep sending to each other; and how long these take
// there and back meanwhile.
func fairness(n uint64) uint64 {
	there, back, stop := make(chan int), make(chan int), int32(0)
	trips := make(chan float64)
	origin := time.Now()
	go func() {
		for x := range there {
			back <- x
		}
	}()
	go func() {
		made := 0.0
		for ; atomic.LoadInt32(&stop) == 0; made++ {
			there <- 1
			<-back
		}
		close(there)
		trips <- made
	}()
	delays := make([]int64, n)
	result := make(chan int64, 1)
	for i := range delays {
		time.Sleep(time.Millisecond)
		begin := time.Now()
		go func() { result <- int64(time.Since(begin)) }()
		delays[i] = <-result
	}
	atomic.StoreInt32(&stop, 1)
	made := <-trips
	figure("pair", float64(time.Since(origin))/made)
	percentiles(delays)
	return n
}

// 64 goroutines started by one, each with 20 us of work every 1.0 to 2.2 ms: how late it is done, n
// times in all.
func skewed(n uint64) uint64 {
	const handlers = 64
	late := make([][]int64, handlers)
	all(handlers, func(h uint64) {
		due := time.Now()
		for i := uint64(0); i < n/handlers; i++ {
			due = due.Add(time.Millisecond + spread(h*1000+i, 1200*time.Microsecond))
			time.Sleep(time.Until(due))
			begin := time.Now()
			for time.Since(begin) < 20*time.Microsecond {
			}
			late[h] = append(late[h], int64(time.Since(due)))
		}
	})
	var values []int64
	for _, l := range late {
		values = append(values, l...)
	}
	percentiles(values)
	return uint64(len(values)) + n%handlers
}
