package main

import (
	"net"
	"os"
)

// notifier speaks the sd_notify protocol. The zero value is silent.
type notifier struct {
	address string
}

// takeNotifySocket reads NOTIFY_SOCKET and removes it from the environment:
// containerd would otherwise say READY=1 for us, long before it is true.
func takeNotifySocket() notifier {
	address := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	return notifier{address}
}

// send gives the supervisor one state. The net package maps a leading @ to the
// abstract namespace.
func (n notifier) send(state string) {
	if n.address == "" {
		return
	}
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.address, Net: "unixgram"})
	if err != nil {
		logf("notify socket: %v", err)
		return
	}
	defer connection.Close()
	if _, err := connection.Write([]byte(state)); err != nil {
		logf("notify socket: %v", err)
	}
}
