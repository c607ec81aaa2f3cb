package chaos

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy passes TCP connections on to a unix socket, and breaks them on
// request.
type proxy struct {
	listener net.Listener
	socket   string
	wait     sync.WaitGroup

	latency atomic.Int64 // nanoseconds that each piece of data is late, per direction
	// loseReplies is how many more pieces of data from clients are passed on
	// without the server's answer to them: the connection is reset instead.
	loseReplies atomic.Int64
	lost        atomic.Int64

	mu      sync.Mutex
	pairs   map[*pair]struct{}
	stalled chan struct{} // closed when data flows again; nil while it does
	closed  bool
}

// pair is one connection through the proxy.
type pair struct {
	client, server net.Conn
	// mute keeps what the server says from the client.
	mute atomic.Bool
}

// newProxy listens on a free loopback port.
func newProxy(socket string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the database proxy: %w", err)
	}
	p := &proxy{listener: listener, socket: socket, pairs: make(map[*pair]struct{})}
	p.wait.Go(p.accept)
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.wait.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("unix", p.socket)
	if err != nil {
		reset(client) // as a host does whose server is away
		return
	}
	c := &pair{client: client, server: server}
	if !p.add(c) {
		c.cut()
		return
	}
	var directions sync.WaitGroup
	directions.Go(func() { p.pass(c, server, client) })
	directions.Go(func() { p.pass(c, client, server) })
	directions.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, c)
}

func (p *proxy) add(c *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.pairs[c] = struct{}{}
	return true
}

// pass copies one direction until either side ends, and then ends both.
func (p *proxy) pass(c *pair, to, from net.Conn) {
	defer c.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			p.delay()
			if from == c.client && p.losesReply() {
				c.mute.Store(true)
			}
			if from == c.server && c.mute.Load() {
				c.cut() // it has acted on what it got, and nobody hears of it
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) losesReply() bool {
	for {
		n := p.loseReplies.Load()
		if n <= 0 {
			return false
		}
		if p.loseReplies.CompareAndSwap(n, n-1) {
			p.lost.Add(1)
			return true
		}
	}
}

func (p *proxy) delay() {
	if d := time.Duration(p.latency.Load()); d > 0 {
		time.Sleep(d)
	}
	p.mu.Lock()
	stalled := p.stalled
	p.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
}

// stall holds all data back until the returned function is called.
func (p *proxy) stall() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	stalled := make(chan struct{})
	p.stalled = stalled
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stalled = nil
		close(stalled)
	})
}

// cutAll resets all connections, in the middle of whatever they do, and
// returns how many there were.
func (p *proxy) cutAll() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.cut()
	}
	return len(p.pairs)
}

func (p *proxy) close() error {
	p.mu.Lock()
	p.closed = true
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.cutAll()
	p.wait.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// close and cut end a connection that may have ended already.
func (c *pair) close() {
	_ = c.client.Close()
	_ = c.server.Close()
}

func (c *pair) cut() {
	reset(c.client)
	_ = c.server.Close()
}

// reset closes a connection so that its peer sees a reset.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // or the peer sees an end in good order
	}
	_ = c.Close()
}
