// SPDX-License-Identifier: MIT
//
// The cases of the benchmarks in Go: finding one, warming up, timing. See perf/rivals/README.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What a case may say beside its checksum: the time of the part that counts, and figures.
var span time.Duration
var figures []string

func figure(name string, value float64) {
	figures = append(figures, fmt.Sprintf("%s %.9g", name, value))
}

// Bytes for each of n, from the first round: later ones use the same memory again.
var memory float64

func bytesOfEach(bytes int64, n uint64) {
	if memory == 0 {
		memory = float64(bytes) / float64(n)
	}
	figure("bytes", memory)
}

// Figures p50, p99 and p99.9; nearest rank, as bench_percentile().
func percentiles(values []int64) {
	sort.Slice(values, func(i, j int) bool { return values[i] < values[j] })
	for _, p := range []struct {
		name    string
		percent float64
	}{{"p50", 50}, {"p99", 99}, {"p99.9", 99.9}} {
		rank := p.percent / 100 * float64(len(values))
		above := int(rank)
		if float64(above) < rank {
			above++
		}
		if above > 0 {
			above--
		}
		figure(p.name, float64(values[above]))
	}
}

func kilobytes(path string, key string) int64 {
	text, _ := os.ReadFile(path)
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, key) {
			kb, _ := strconv.ParseInt(strings.Fields(line)[1], 10, 64)
			return kb
		}
	}
	return -1
}

// Resident memory and its page tables.
func memoryBytes() int64 {
	return (kilobytes("/proc/self/smaps_rollup", "Rss:") + kilobytes("/proc/self/status", "VmPTE:")) * 1024
}

func spread(i uint64, within time.Duration) time.Duration {
	return time.Duration(uint64(uint32(i)*2654435761) * uint64(within) >> 32)
}

type workCase struct {
	run  func(n uint64) uint64
	warm byte // 'e': an eighth of n, 's': n, ' ': sees to it itself
}

var cases = map[string]workCase{
	"spawn + join":                   {spawnJoin, 'e'},
	"queued":                         {queued, 's'},
	"suspended":                      {suspended, 's'},
	"yielding":                       {yielding, 's'},
	"ring of 2":                      {ringOf(2), 'e'},
	"ring of 512":                    {ringOf(512), 'e'},
	"ring of 16384":                  {ringOf(16384), 'e'},
	"pingpong":                       {pingpong, 'e'},
	"1to1":                           {buffered(1), 'e'},
	"4to4":                           {buffered(4), 'e'},
	"mutex alone":                    {mutex(1, false), 'e'},
	"mutex of 8":                     {mutex(8, false), 'e'},
	"mutex of 8, each yields inside": {mutex(8, true), 'e'},
	"cancel + re-arm":                {rearm, ' '},
	"sleep of 900 us, late":          {sleepLate, ' '},
	"sleepers":                       {sleepers, 's'},
	"wake":                           {wake, ' '},
	"idle":                           {idle, ' '},
	"burst":                          {burst, ' '},
	"fairness":                       {fairness, ' '},
	"skewed load":                    {skewed, ' '},
}

func main() {
	if len(os.Args) != 4 {
		os.Exit(2)
	}
	workers, _ := strconv.Atoi(os.Args[2])
	n, _ := strconv.ParseUint(os.Args[3], 10, 64)
	if workers > 0 {
		runtime.GOMAXPROCS(workers)
	}
	c, known := cases[os.Args[1]]
	if !known {
		os.Exit(77)
	}
	if c.warm == 'e' {
		c.run(n/8 + 64)
	} else if c.warm == 's' {
		c.run(n)
	}
	span, figures = 0, nil
	begin := time.Now()
	checksum := c.run(n)
	whole := time.Since(begin)
	if span == 0 {
		span = whole
	}
	fmt.Printf("%d %.9f\n# %s\n", checksum, span.Seconds(), runtime.Version())
	for _, f := range figures {
		fmt.Println(f)
	}
}

// n goroutines that count down one group; used by several cases.
func all(n uint64, body func(i uint64)) {
	var group sync.WaitGroup
	group.Add(int(n))
	for i := uint64(0); i < n; i++ {
		go func(i uint64) {
			body(i)
			group.Done()
		}(i)
	}
	group.Wait()
}
