package main

import (
	"fmt"
	"sync"
	"time"
)

// parts are the components that run in this process, or as its children. They
// live and die together: when one ends, the whole process ends.
type parts struct {
	failed chan error

	mu       sync.Mutex
	stopping bool
	stops    []func()
}

func newParts() *parts {
	return &parts{failed: make(chan error, 1)}
}

// run starts a component that is expected never to end.
func (p *parts) run(name string, component func() error) {
	go func() {
		p.fail(fmt.Errorf("%s has ended: %v", name, component()))
	}()
}

// fail reports the first reason to end; later ones only follow from it.
func (p *parts) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return
	}
	select {
	case p.failed <- err:
	default:
	}
}

// onStop adds something to do at a graceful stop. The last one added is done first.
func (p *parts) onStop(stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, stop)
}

func (p *parts) stop() {
	p.mu.Lock()
	p.stopping = true
	stops := p.stops
	p.mu.Unlock()
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
}

// within does something that may hang, and goes on after a time limit.
func within(limit time.Duration, what func()) {
	done := make(chan struct{})
	go func() {
		what()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
