package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/ioutil"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// containerd is the one child process. It dies with its parent; its shims, and
// with them the containers, do not.
type containerd struct {
	socket string
	// root is persistent and holds images, snapshots and what is known of containers.
	root    string
	config  string
	cniConf string
	dropIns string // images that the person put there
}

func newContainerd(config *Config, dir string) *containerd {
	return &containerd{
		socket:  runDir + "/containerd/containerd.sock",
		root:    filepath.Join(dir, "containerd"),
		config:  filepath.Join(dir, "etc/containerd/config.toml"),
		cniConf: filepath.Join(dir, "etc/cni/net.d"),
		dropIns: filepath.Join(dir, "images"),
	}
}

var containerdConfig = template.Must(template.New("config.toml").Parse(`version = 2
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
oom_score = -999
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = {{printf "%q" .Socket}}

[plugins."io.containerd.internal.v1.opt"]
  path = {{printf "%q" .Opt}}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/keelson/pause:1"
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
  restrict_oom_score_adj = {{.RestrictOOM}}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {{printf "%q" .CNIBin}}
  conf_dir = {{printf "%q" .CNIConf}}
`))

// start runs containerd and returns when it serves. The channel tells its end.
func (c *containerd) start(parts *parts) (<-chan error, error) {
	payload, err := payloadDir()
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	if err := containerdConfig.Execute(&text, map[string]interface{}{
		"Root":        c.root,
		"State":       runDir + "/containerd",
		"Socket":      c.socket,
		"Opt":         filepath.Join(c.root, "opt"),
		"CNIBin":      filepath.Join(payload, "cni"),
		"CNIConf":     c.cniConf,
		"RestrictOOM": !mayLowerOOMScore(),
	}); err != nil {
		return nil, err
	}
	if err := writeFile(c.config, []byte(text.String()), 0600); err != nil {
		return nil, err
	}
	for _, dir := range []string{c.cniConf, c.dropIns, filepath.Join(filepath.Dir(c.dropIns), "pod-manifests")} {
		if err := os.MkdirAll(dir, 0700); err != nil {
			return nil, err
		}
	}

	command := exec.Command(filepath.Join(payload, "bin/containerd"), "-c", c.config)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan error, 1)
	gone := make(chan struct{})
	go func() {
		// The kernel sends the signal when the thread that forked dies, so the thread stays.
		runtime.LockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			ended <- fmt.Errorf("containerd: %v", command.Wait())
			close(gone)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("containerd: %v", err)
	}
	parts.onStop(func() {
		if err := command.Process.Signal(syscall.SIGTERM); err == nil {
			within(10*time.Second, func() { <-gone })
		}
	})
	for {
		connection, err := net.Dial("unix", c.socket)
		if err == nil {
			return ended, connection.Close()
		}
		select {
		case err := <-ended:
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// importImages loads the payload's image archives and those that lie in
// <data-dir>/agent/images. What is in the store already, by the archive's own
// hash, is not loaded again.
func (c *containerd) importImages(ctx context.Context) error {
	payload, err := payloadDir()
	if err != nil {
		return err
	}
	var archives []string
	for _, dir := range []string{filepath.Join(payload, "images"), c.dropIns} {
		found, err := filepath.Glob(dir + "/*.tar")
		if err != nil {
			return err
		}
		sort.Strings(found)
		archives = append(archives, found...)
	}
	// The record lies beside the store, so that both are lost together.
	recordPath := filepath.Join(c.root, "imported.json")
	imported := map[string]string{}
	if text, err := ioutil.ReadFile(recordPath); err == nil {
		if err := json.Unmarshal(text, &imported); err != nil {
			logf("%s: %v; importing all images again", recordPath, err)
		}
	}
	for _, archive := range archives {
		sum, err := hashFile(archive)
		if err != nil {
			return err
		}
		if imported[archive] == sum {
			continue
		}
		started := time.Now()
		command := exec.CommandContext(ctx, filepath.Join(payload, "bin/ctr"),
			"--address", c.socket, "--namespace", "k8s.io", "images", "import", archive)
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %v: %s", archive, err, strings.TrimSpace(string(output)))
		}
		logf("imported %s in %.1f s", archive, time.Since(started).Seconds())
		imported[archive] = sum
		text, err := json.Marshal(imported)
		if err != nil {
			return err
		}
		if err := writeFile(recordPath, text, 0600); err != nil {
			return err
		}
	}
	return nil
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// mayLowerOOMScore tells whether this process has CAP_SYS_RESOURCE; without it
// runc fails unless containerd keeps the score of containers as it is.
func mayLowerOOMScore() bool {
	const capSysResource = 24
	text, err := ioutil.ReadFile("/proc/self/status")
	if err != nil {
		return true
	}
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "CapEff:") {
			set, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(line, "CapEff:")), 16, 64)
			return err != nil || set&(1<<capSysResource) != 0
		}
	}
	return true
}
