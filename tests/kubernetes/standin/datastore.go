package main

import (
	"context"
	"fmt"
	"io"
	"io/ioutil"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/robfig/cron"
	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/embed"
)

const (
	// runDir holds what lives as long as the machine is up.
	runDir = "/run/k3s"
	// etcdDir is the working directory of a server. The apiserver's check of its
	// etcd address understands a unix socket only if it is relative.
	etcdDir      = runDir + "/etcd"
	etcdEndpoint = "unix://etcd.sock"
)

// startDatastore runs the embedded etcd. Clients reach it through a socket that
// only root can open; a cluster of one has no peers, so its peer port is on
// loopback and wants a certificate.
func startDatastore(config *Config, certs *serverCerts, parts *parts) error {
	if err := os.MkdirAll(etcdDir, 0700); err != nil {
		return err
	}
	if err := os.Chdir(etcdDir); err != nil {
		return err
	}
	// A socket of an earlier run is in the way of the new one.
	if err := os.Remove("etcd.sock"); err != nil && !os.IsNotExist(err) {
		return err
	}
	dir := filepath.Join(config.DataDir, "server/db/etcd")
	if err := os.MkdirAll(dir, 0700); err != nil {
		return err
	}

	client, err := url.Parse(etcdEndpoint)
	if err != nil {
		return err
	}
	peer := url.URL{Scheme: "https", Host: "127.0.0.1:2380"}
	settings := embed.NewConfig()
	settings.Name = "default"
	settings.Dir = dir
	// The advertised client address keeps its default: etcd wants a port in it, and nobody asks.
	settings.LCUrls = []url.URL{*client}
	settings.LPUrls, settings.APUrls = []url.URL{peer}, []url.URL{peer}
	settings.InitialCluster = settings.InitialClusterFromName(settings.Name)
	settings.PeerTLSInfo.CertFile = certs.path("etcd/peer-server-client.crt")
	settings.PeerTLSInfo.KeyFile = certs.path("etcd/peer-server-client.key")
	settings.PeerTLSInfo.TrustedCAFile = certs.path("etcd/peer-ca.crt")
	settings.PeerTLSInfo.ClientCertAuth = true
	settings.EnableGRPCGateway = false
	settings.Logger = "zap"
	settings.LogLevel = "warn"
	settings.LogOutputs = []string{"stderr"}

	server, err := embed.StartEtcd(settings)
	if err != nil {
		return fmt.Errorf("etcd: %v", err)
	}
	parts.onStop(func() { within(5*time.Second, server.Close) })
	parts.run("etcd", func() error { return <-server.Err() })
	select {
	case <-server.Server.ReadyNotify():
		return nil
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("etcd is not ready after two minutes")
	}
}

// startSnapshots takes a snapshot whenever the schedule says so.
func startSnapshots(config *Config) error {
	if config.SnapshotsDisabled {
		return nil
	}
	clock := cron.New()
	schedule, err := cron.ParseStandard(config.SnapshotSchedule)
	if err != nil {
		return fmt.Errorf("etcd-snapshot-schedule-cron: %v", err)
	}
	clock.Schedule(schedule, cron.FuncJob(func() {
		path, err := saveSnapshot(config, etcdEndpoint, config.SnapshotName)
		if err == nil {
			err = pruneSnapshots(config)
		}
		if err != nil {
			logf("etcd snapshot: %v", err)
			return
		}
		logf("etcd snapshot %s", path)
	}))
	clock.Start()
	return nil
}

// snapshotCommand is `etcd-snapshot save|ls`, which asks a running server.
func snapshotCommand(args []string) error {
	config, err := readConfig()
	if err != nil {
		return err
	}
	if config.NodeName == "" {
		if config.NodeName, err = os.Hostname(); err != nil {
			return err
		}
	}
	switch {
	case len(args) == 1 && (args[0] == "ls" || args[0] == "list"):
		return listSnapshots(config)
	case len(args) >= 1 && args[0] == "save":
		name := "on-demand"
		if len(args) == 3 && args[1] == "--name" {
			name = args[2]
		} else if len(args) == 2 && strings.HasPrefix(args[1], "--name=") {
			name = strings.TrimPrefix(args[1], "--name=")
		} else if len(args) > 1 {
			return fmt.Errorf("usage: etcd-snapshot save [--name NAME]")
		}
		if name == "" || strings.Contains(name, "/") {
			return fmt.Errorf("a snapshot's name is a file name")
		}
		path, err := saveSnapshot(config, "unix://"+etcdDir+"/etcd.sock", name)
		if err != nil {
			return err
		}
		fmt.Println(path)
		return nil
	}
	return fmt.Errorf("usage: etcd-snapshot save [--name NAME] | ls")
}

func saveSnapshot(config *Config, endpoint, name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Context: ctx})
	if err != nil {
		return "", err
	}
	defer client.Close()
	stream, err := client.Snapshot(ctx)
	if err != nil {
		return "", fmt.Errorf("the server does not answer: %v", err)
	}
	defer stream.Close()

	if err := os.MkdirAll(config.SnapshotDir, 0700); err != nil {
		return "", err
	}
	path := filepath.Join(config.SnapshotDir, fmt.Sprintf("%s-%s-%d", name, strings.ToLower(config.NodeName), time.Now().Unix()))
	partial := path + ".partial"
	file, err := os.OpenFile(partial, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0600)
	if err != nil {
		return "", err
	}
	defer os.Remove(partial)
	size, err := io.Copy(file, stream)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	// The stream ends with the SHA-256 of what came before; the rest is whole 512-byte blocks.
	if err == nil && size%512 != 32 {
		err = fmt.Errorf("the snapshot is not complete: %d bytes", size)
	}
	if err != nil {
		return "", err
	}
	return path, os.Rename(partial, path)
}

// snapshots lists the finished ones, oldest first.
func snapshots(config *Config) ([]os.FileInfo, error) {
	files, err := ioutil.ReadDir(config.SnapshotDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var kept []os.FileInfo
	for _, file := range files {
		if file.Mode().IsRegular() && !strings.HasSuffix(file.Name(), ".partial") {
			kept = append(kept, file)
		}
	}
	sort.Slice(kept, func(i, j int) bool { return kept[i].ModTime().Before(kept[j].ModTime()) })
	return kept, nil
}

func listSnapshots(config *Config) error {
	files, err := snapshots(config)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "Name\tSize\tCreated")
	for _, file := range files {
		fmt.Fprintf(table, "%s\t%d\t%s\n", file.Name(), file.Size(), file.ModTime().UTC().Format(time.RFC3339))
	}
	return table.Flush()
}

// pruneSnapshots keeps the newest scheduled ones; those made on demand stay.
func pruneSnapshots(config *Config) error {
	if config.SnapshotRetention <= 0 {
		return nil
	}
	files, err := snapshots(config)
	if err != nil {
		return err
	}
	var scheduled []string
	for _, file := range files {
		if strings.HasPrefix(file.Name(), config.SnapshotName+"-"+config.NodeName+"-") {
			scheduled = append(scheduled, filepath.Join(config.SnapshotDir, file.Name()))
		}
	}
	for len(scheduled) > config.SnapshotRetention {
		if err := os.Remove(scheduled[0]); err != nil {
			return err
		}
		scheduled = scheduled[1:]
	}
	return nil
}
