// kubernetes-standin runs the upstream Kubernetes components, with etcd
// embedded, in one process that keeps the contract of K3s: the same
// subcommands, configuration file, paths, endpoints and signals. It exists for
// tests and offline demos and must never be used for production.
//
// This file picks the subcommand. What each one does is in the file of its
// noun: server.go, node.go, datastore.go, kubectl.go.
package main

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	programName = "kubernetes-standin"
	// kubernetesVersion is the upstream release that the components were built from.
	kubernetesVersion = "v1.20.2"

	usage = `Usage:
  kubernetes-standin server               run the control plane and a node
  kubernetes-standin server --cluster-reset --cluster-reset-restore-path=FILE
                                          put a snapshot in the datastore's place
  kubernetes-standin agent                run a node that joins a server
  kubernetes-standin etcd-snapshot save [--name NAME]
  kubernetes-standin etcd-snapshot ls
  kubernetes-standin kubectl ...          upstream kubectl
  kubernetes-standin --version

Settings come from /etc/rancher/k3s/config.yaml (or $K3S_CONFIG_FILE).
`
)

func main() {
	rand.Seed(time.Now().UnixNano())
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(1)
	}
	var err error
	switch command, rest := os.Args[1], os.Args[2:]; command {
	case "server", "agent":
		err = run(command, rest)
	case "etcd-snapshot":
		err = snapshotCommand(rest)
	case "kubectl":
		err = kubectl(rest)
	case "--version", "-v", "version":
		fmt.Printf("%s version %s (debian)\n", programName, kubernetesVersion)
	case "--help", "-h", "help":
		fmt.Print(usage)
	default:
		err = fmt.Errorf("unknown command %q; see %s --help", command, programName)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", programName, err)
		os.Exit(1)
	}
}

// run is the life of `server` and `agent`: start everything, then wait until
// the first SIGTERM or until any one part has ended.
func run(role string, args []string) error {
	snapshot, resets := restoreArgs(args)
	resets = resets && role == "server"
	if len(args) > 0 && !resets {
		return fmt.Errorf("%s takes no arguments: settings belong into %s", role, configPath())
	}
	config, err := loadConfig(role)
	if err != nil {
		return err
	}
	if resets {
		return restore(config, snapshot)
	}
	notify := takeNotifySocket()
	if err := prepareProcess(); err != nil {
		return err
	}

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	parts := newParts()
	start := startServer
	if role == "agent" {
		start = startAgent
	}
	go func() {
		if err := start(ctx, config, parts, notify); err != nil {
			parts.fail(err)
		}
	}()

	select {
	case err := <-parts.failed:
		// The containers live on; containerd dies with this process.
		return err
	case <-signals:
		logf("stopping")
		go func() {
			<-signals
			os.Exit(1)
		}()
		notify.send("STOPPING=1")
		cancel()
		parts.stop()
		return nil
	}
}

// prepareProcess sets what the components take from their environment.
func prepareProcess() error {
	// The components run for a cluster of a few pods: memory is cheaper than time.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	// The in-tree AWS credential provider would otherwise look for a cloud for six seconds.
	os.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	payload, err := payloadDir()
	if err != nil {
		return err
	}
	// Our own programs first; iptables and mount are the system's.
	os.Setenv("PATH", filepath.Join(payload, "bin")+":/usr/sbin:/usr/bin:/sbin:/bin")
	// runc, which containerd's shim starts, is the only program that needs it.
	os.Setenv("LD_LIBRARY_PATH", filepath.Join(payload, "lib"))
	return nil
}

// payloadDir is the directory above the one this program lies in: it holds
// bin/, cni/, images/ and lib/.
func payloadDir() (string, error) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("find the payload directory: %v", err)
	}
	return filepath.Dir(filepath.Dir(self)), nil
}

// logf writes one line of our own among those of the components.
func logf(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, programName+": "+format+"\n", args...)
}
