package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxOwnMemory is what a gateway may need while it exports.
	maxOwnMemory size = 64 << 20
	sampleEvery       = 50 * time.Millisecond
	// restFor is how long a gateway is left alone after the exports: the Go
	// runtime collects at least every two minutes, and then gives back.
	restFor = 3 * time.Minute
)

// size is in bytes.
type size int64

func (s size) String() string { return fmt.Sprintf("%.1f MiB", float64(s)/(1<<20)) }

// memory is the part of a process that is in memory. Pages of files, nearly all
// of which are the program's own text, belong to the kernel's cache: it drops
// them when it needs their space, and other processes share them. The others
// are the process's own.
type memory struct {
	anonymous, shared, file size
	peak                    size // the most that all three have been, ever
}

func (m memory) own() size { return m.anonymous + m.shared }

func (m memory) String() string {
	return fmt.Sprintf("own %s (RssAnon %s, RssShmem %s), RssFile %s", m.own(), m.anonymous, m.shared, m.file)
}

// memoryOf asks the kernel.
func memoryOf(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	figures := map[string]*size{"RssAnon": &m.anonymous, "RssShmem": &m.shared, "RssFile": &m.file, "VmHWM": &m.peak}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		figure, ok := figures[name]
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			return m, fmt.Errorf("%s of the process: %w", name, err)
		}
		*figure = size(kib << 10)
		delete(figures, name)
	}
	if len(figures) > 0 {
		return m, fmt.Errorf("the kernel does not say %s", slices.Sorted(maps.Keys(figures)))
	}
	return m, nil
}

// memoryWatch samples the memory of a process.
type memoryWatch struct {
	before memory
	// most holds each figure's maximum, and that of their sum for own.
	most    memory
	quit    chan struct{}
	stopped chan error
}

func watchMemory(pid int) (*memoryWatch, error) {
	before, err := memoryOf(pid)
	if err != nil {
		return nil, err
	}
	w := &memoryWatch{before: before, most: before, quit: make(chan struct{}), stopped: make(chan error, 1)}
	go func() { w.stopped <- w.sample(pid) }() // until stop
	return w, nil
}

func (w *memoryWatch) sample(pid int) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		last := false
		select {
		case <-tick.C:
		case <-w.quit:
			last = true
		}
		now, err := memoryOf(pid)
		if err != nil {
			return err
		}
		w.most = memory{
			anonymous: max(w.most.anonymous, now.anonymous),
			shared:    max(w.most.shared, now.shared),
			file:      max(w.most.file, now.file),
			peak:      now.peak,
		}
		if last {
			return nil
		}
	}
}

// stop ends the samples, after one more.
func (w *memoryWatch) stop() error {
	close(w.quit)
	return <-w.stopped
}

func (w *memoryWatch) String() string {
	return fmt.Sprintf("memory before: %s; at most: %s; VmHWM %s", w.before, w.most, w.most.peak)
}

// rest prints what memory the gateway has some time after the exports.
func (b *bench) rest() error {
	time.Sleep(restFor)
	m, err := memoryOf(b.gateway.Process.Pid)
	if err == nil {
		fmt.Printf("%s later: %s\n", restFor, m)
	}
	return err
}
