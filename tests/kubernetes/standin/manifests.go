package main

import (
	"context"
	"io/ioutil"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

const (
	manifestPeriod = 3 * time.Second
	// manifestRetry is longer: each try is a process, and costs an emulated machine a second or two.
	manifestRetry = 15 * time.Second
)

// manifestDir applies each file of a directory when the server starts and when
// its contents change. A file that cannot be applied is tried again; taking
// one away deletes nothing.
type manifestDir struct {
	path       string
	kubeconfig string
	files      map[string]manifest
}

// manifest is the last attempt at one file.
type manifest struct {
	hash   string
	failed string
	at     time.Time
}

func startManifests(ctx context.Context, kubeconfig, path string) {
	dir := &manifestDir{path: path, kubeconfig: kubeconfig, files: map[string]manifest{}}
	go func() {
		for {
			dir.sync(ctx)
			select {
			case <-ctx.Done():
				return
			case <-time.After(manifestPeriod):
			}
		}
	}()
}

func (d *manifestDir) sync(ctx context.Context) {
	var files []string
	for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(d.path, pattern))
		if err != nil {
			logf("manifests: %v", err)
			return
		}
		files = append(files, found...)
	}
	sort.Strings(files)
	for _, file := range files {
		text, err := ioutil.ReadFile(file)
		if err != nil {
			// Gone since it was listed, or not yet readable: the next round sees.
			continue
		}
		now := manifest{hash: sha256Hex(text), at: time.Now()}
		last := d.files[file]
		if last.hash == now.hash && (last.failed == "" || now.at.Sub(last.at) < manifestRetry) {
			continue
		}
		now.failed = d.apply(ctx, text)
		d.files[file] = now
		switch {
		case ctx.Err() != nil:
			return
		case now.failed == "":
			logf("applied %s", file)
		case now.failed != last.failed:
			logf("manifest %s: %s", file, now.failed)
		}
	}
}

// apply gives a file to our own kubectl and returns what went wrong. The
// server-side apply of this release would do in one request, but knows no
// default for a service port's protocol.
func (d *manifestDir) apply(ctx context.Context, text []byte) string {
	command := exec.CommandContext(ctx, "/proc/self/exe", "kubectl", "--kubeconfig="+d.kubeconfig,
		"--cache-dir="+runDir+"/kubectl", "apply", "--validate=false", "-f", "-")
	command.Stdin = strings.NewReader(string(text))
	var problems strings.Builder
	command.Stderr = &problems
	err := command.Run()
	if err == nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(problems.String()), "\n")
	return err.Error() + ": " + lines[len(lines)-1]
}
