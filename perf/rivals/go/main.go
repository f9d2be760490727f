// SPDX-License-Identifier: MIT
//
// The cases of perf/channel.c and perf/mutex.c in Go. See perf/rivals/README.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

func pingpong() func(n uint64) uint64 {
	there, back := make(chan uint64), make(chan uint64)
	go func() {
		for x := range there {
			back <- x
		}
	}()
	return func(n uint64) (sum uint64) {
		for i := uint64(1); i <= n; i++ {
			there <- i
			sum += <-back
		}
		return sum
	}
}

func buffered(pairs uint64) func(n uint64) uint64 {
	c := make(chan uint64, 128)
	return func(n uint64) uint64 {
		var total uint64
		var lock sync.Mutex
		var all sync.WaitGroup
		each := n / pairs
		for p := uint64(0); p < pairs; p++ {
			all.Add(2)
			go func() {
				for i := uint64(1); i <= each; i++ {
					c <- i
				}
				all.Done()
			}()
			go func() {
				var sum uint64
				for i := uint64(0); i < each; i++ {
					sum += <-c
				}
				lock.Lock()
				total += sum
				lock.Unlock()
				all.Done()
			}()
		}
		all.Wait()
		return total
	}
}

// The counter is what the mutex guards.
func mutex(tasks uint64) func(n uint64) uint64 {
	return func(n uint64) uint64 {
		var lock sync.Mutex
		var counter uint64
		var all sync.WaitGroup
		for t := uint64(0); t < tasks; t++ {
			all.Add(1)
			go func() {
				for i := uint64(0); i < n/tasks; i++ {
					lock.Lock()
					counter++
					lock.Unlock()
				}
				all.Done()
			}()
		}
		all.Wait()
		return counter
	}
}

func main() {
	if len(os.Args) != 4 {
		os.Exit(2)
	}
	workers, _ := strconv.Atoi(os.Args[2])
	n, _ := strconv.ParseUint(os.Args[3], 10, 64)
	runtime.GOMAXPROCS(workers)
	var run func(n uint64) uint64
	switch os.Args[1] {
	case "pingpong":
		run = pingpong()
	case "one":
		run = buffered(1)
	case "four":
		run = buffered(4)
	case "mutex1":
		run = mutex(1)
	case "mutex8":
		run = mutex(8)
	default:
		os.Exit(77)
	}
	run(n/8 + 64)
	begin := time.Now()
	checksum := run(n)
	span := time.Since(begin)
	fmt.Printf("%d %.9f\n", checksum, span.Seconds())
}
