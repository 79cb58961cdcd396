package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/ioutil"
	"path/filepath"
	"sort"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const manifestPeriod = 3 * time.Second

// manifestDir applies each file of a directory when the server starts and when
// its contents change. A file that cannot be applied is tried again; taking
// one away deletes nothing.
type manifestDir struct {
	path    string
	client  dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	applied map[string]string // file → hash of what was applied
	said    map[string]string // file → last error, so that it is said once
}

func startManifests(ctx context.Context, kubeconfig, path string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	discovery, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	dir := &manifestDir{
		path:    path,
		client:  client,
		mapper:  restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery)),
		applied: map[string]string{},
		said:    map[string]string{},
	}
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
	return nil
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
		hash := hashCA(text)
		if err == nil && d.applied[file] == hash {
			continue
		}
		if err == nil {
			err = d.apply(ctx, text)
		}
		if err == nil {
			logf("applied %s", file)
			d.applied[file] = hash
			delete(d.said, file)
		} else if message := err.Error(); d.said[file] != message {
			logf("manifest %s: %s", file, message)
			d.said[file] = message
		}
	}
}

// apply sends each document of a file as a server-side apply. The first error
// is returned after all were tried: later documents may not need earlier ones.
func (d *manifestDir) apply(ctx context.Context, text []byte) error {
	var first error
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if err == io.EOF {
			return first
		}
		if err != nil {
			return fmt.Errorf("not a manifest: %v", err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := d.applyObject(ctx, object); err != nil && first == nil {
			first = fmt.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

func (d *manifestDir) applyObject(ctx context.Context, object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	mapping, err := d.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		// A definition in this very file may have brought it.
		d.mapper.Reset()
		mapping, err = d.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = d.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := object.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		resource = d.client.Resource(mapping.Resource).Namespace(namespace)
	}
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	force := true
	_, err = resource.Patch(ctx, object.GetName(), types.ApplyPatchType, text,
		metav1.PatchOptions{FieldManager: programName, Force: &force})
	return err
}
