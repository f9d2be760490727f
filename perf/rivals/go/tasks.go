// SPDX-License-Identifier: MIT
//
// Starting goroutines, yielding, channels and locks: the cases of perf/spawn_join.c, tasks.c, yield.c,
// channel.c and locks.c.
package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A result comes back through a channel of one, as a goroutine's usually does.
func spawnJoin(n uint64) (sum uint64) {
	result := make(chan uint64, 1)
	for i := uint64(0); i < n; i++ {
		go func(x uint64) { result <- 2 * x }(1)
		sum += <-result
	}
	return sum
}

// An array whose pages are there, so that no page fault is timed.
func touched(n uint64) []uint64 {
	array := make([]uint64, n)
	for i := range array {
		array[i] = 1
	}
	return array
}

func queued(n uint64) (sum uint64) {
	results := touched(n)
	before := memoryBytes()
	begin := time.Now()
	var group sync.WaitGroup
	group.Add(int(n))
	for i := uint64(0); i < n; i++ {
		go func(i uint64) {
			results[i] = i ^ 0x5a5a
			group.Done()
		}(i)
	}
	spent := time.Since(begin)
	if runtime.GOMAXPROCS(0) == 1 { // all exist, hardly one has begun
		bytesOfEach(memoryBytes()-before, n)
	}
	begin = time.Now()
	group.Wait()
	for _, x := range results {
		sum += x
	}
	span = spent + time.Since(begin)
	return sum
}

// Each waits for a message of its own.
func suspended(n uint64) (sum uint64) {
	gates := make([]chan struct{}, n)
	for i := range gates {
		gates[i] = make(chan struct{}, 1)
	}
	results := touched(n)
	var waiting int64
	var group sync.WaitGroup
	group.Add(int(n))
	runtime.GC()
	before := memoryBytes()
	begin := time.Now()
	for i := uint64(0); i < n; i++ {
		go func(i uint64) {
			atomic.AddInt64(&waiting, 1)
			<-gates[i]
			results[i] = i ^ 0x5a5a
			group.Done()
		}(i)
	}
	for atomic.LoadInt64(&waiting) < int64(n) {
		time.Sleep(200 * time.Microsecond)
	}
	figure("start", float64(time.Since(begin))/float64(n))
	bytesOfEach(memoryBytes()-before, n)
	begin = time.Now()
	for _, gate := range gates {
		gate <- struct{}{}
	}
	group.Wait()
	figure("wake", float64(time.Since(begin))/float64(n))
	for _, x := range results {
		sum += x
	}
	return sum
}

const yields = 10

func yieldTimes(times uint64) {
	for k := uint64(0); k < times; k++ {
		runtime.Gosched()
	}
}

func yielding(n uint64) uint64 {
	var total uint64
	all(n, func(uint64) {
		yieldTimes(yields)
		atomic.AddUint64(&total, yields)
	})
	return total
}

// The clock starts when all have begun and yielded a while, and stops when the last is through; the yield
// in which each waited for the last one counts.
func ringOf(members uint64) func(n uint64) uint64 {
	return func(n uint64) uint64 {
		rounds := n/members + 1
		var ready, done uint64
		var begin time.Time
		all(members, func(uint64) {
			yieldTimes(rounds/8 + 4)
			if atomic.AddUint64(&ready, 1) == members {
				begin = time.Now()
			}
			for atomic.LoadUint64(&ready) < members {
				runtime.Gosched()
			}
			yieldTimes(rounds)
			if atomic.AddUint64(&done, 1) == members {
				span = time.Since(begin)
			}
		})
		return members * (rounds + 1)
	}
}

func pingpong(n uint64) (sum uint64) {
	there, back := make(chan uint64), make(chan uint64)
	go func() {
		for x := range there {
			back <- x
		}
	}()
	for i := uint64(1); i <= n; i++ {
		there <- i
		sum += <-back
	}
	close(there)
	return sum
}

func buffered(pairs uint64) func(n uint64) uint64 {
	return func(n uint64) uint64 {
		c := make(chan uint64, 128)
		var total uint64
		each := n / pairs
		all(2*pairs, func(k uint64) {
			if k%2 == 0 {
				for i := uint64(1); i <= each; i++ {
					c <- i
				}
				return
			}
			var sum uint64
			for i := uint64(0); i < each; i++ {
				sum += <-c
			}
			atomic.AddUint64(&total, sum)
		})
		return total
	}
}

// The counter is what the mutex guards.
func mutex(tasks uint64, yields bool) func(n uint64) uint64 {
	return func(n uint64) uint64 {
		var lock sync.Mutex
		var counter uint64
		all(tasks, func(uint64) {
			for i := uint64(0); i < n/tasks; i++ {
				lock.Lock()
				counter++
				if yields {
					runtime.Gosched()
				}
				lock.Unlock()
			}
		})
		return counter
	}
}
