package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// podPrefix is the size of each node's share of cluster-cidr.
const podPrefix = 24

// resyncPeriod is how often nodes are looked at again without an event.
const resyncPeriod = 2 * time.Minute

// registry is the server's book of the nodes that have joined: it holds each
// one's password, hashed, so that no other machine can take its name, and its
// share of the pod network, so that a node knows it before its kubelet runs.
type registry struct {
	path    string
	network *net.IPNet
	own     string

	mu    sync.Mutex
	nodes map[string]registered
}

type registered struct {
	PasswordSHA256 string `json:"passwordSHA256"`
	PodCIDR        string `json:"podCIDR"`
}

func openRegistry(config *Config) (*registry, error) {
	_, network, err := net.ParseCIDR(config.ClusterCIDR)
	if err != nil {
		return nil, err
	}
	if ones, _ := network.Mask.Size(); ones > podPrefix {
		return nil, fmt.Errorf("cluster-cidr: must hold at least one /%d", podPrefix)
	}
	r := &registry{
		path:    filepath.Join(config.DataDir, "server/cred/nodes.json"),
		network: network,
		own:     config.NodeName,
		nodes:   map[string]registered{},
	}
	text, err := ioutil.ReadFile(r.path)
	if os.IsNotExist(err) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r.nodes); err != nil {
		return nil, fmt.Errorf("%s: %v", r.path, err)
	}
	return r, nil
}

// admit checks a node's password, or enters a new node, and returns its share
// of the pod network.
func (r *registry) admit(name, password string) (string, error) {
	hash := sha256Hex([]byte(password))
	r.mu.Lock()
	defer r.mu.Unlock()
	if node, known := r.nodes[name]; known {
		if subtle.ConstantTimeCompare([]byte(node.PasswordSHA256), []byte(hash)) != 1 {
			return "", fmt.Errorf("another node has joined as %q: wrong node password", name)
		}
		return node.PodCIDR, nil
	}
	cidr, err := r.freeCIDR()
	if err != nil {
		return "", err
	}
	r.nodes[name] = registered{PasswordSHA256: hash, PodCIDR: cidr}
	text, err := json.MarshalIndent(r.nodes, "", "  ")
	if err == nil {
		err = writeFile(r.path, text, 0600)
	}
	if err != nil {
		delete(r.nodes, name)
		return "", err
	}
	return cidr, nil
}

func (r *registry) freeCIDR() (string, error) {
	taken := map[string]bool{}
	for _, node := range r.nodes {
		taken[node.PodCIDR] = true
	}
	ones, _ := r.network.Mask.Size()
	for i := int64(0); i < 1<<uint(podPrefix-ones); i++ {
		share := addressAt(r.network, i<<(32-podPrefix))
		if cidr := fmt.Sprintf("%s/%d", share, podPrefix); !taken[cidr] {
			return cidr, nil
		}
	}
	return "", fmt.Errorf("cluster-cidr %s has no free /%d", r.network, podPrefix)
}

func (r *registry) podCIDR(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[name].PodCIDR
}

// settleNodes writes into each Node object what the registry knows: its share
// of the pod network, and which one is the server.
func settleNodes(ctx context.Context, client kubernetes.Interface, r *registry) {
	onNodes(ctx, client, func(node *v1.Node, _ []*v1.Node) {
		patch := map[string]interface{}{}
		if cidr := r.podCIDR(node.Name); cidr != "" && node.Spec.PodCIDR == "" {
			patch["spec"] = map[string]interface{}{"podCIDR": cidr, "podCIDRs": []string{cidr}}
		}
		const role = "node-role.kubernetes.io/"
		if node.Name == r.own && node.Labels[role+"master"] == "" {
			patch["metadata"] = map[string]interface{}{
				"labels": map[string]string{role + "master": "true", role + "control-plane": "true"},
			}
		}
		if len(patch) == 0 {
			return
		}
		text, err := json.Marshal(patch)
		if err == nil {
			_, err = client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, text, metav1.PatchOptions{})
		}
		if err != nil {
			logf("node %s: %v", node.Name, err)
		}
	})
}

// onNodes calls back for every node that appears or changes, and every few
// minutes for each, with the list of all.
func onNodes(ctx context.Context, client kubernetes.Interface, changed func(node *v1.Node, all []*v1.Node)) {
	factory := informers.NewSharedInformerFactory(client, resyncPeriod)
	nodes := factory.Core().V1().Nodes()
	call := func(object interface{}) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		node, ok := object.(*v1.Node)
		if !ok {
			return
		}
		var all []*v1.Node
		for _, item := range nodes.Informer().GetStore().List() {
			all = append(all, item.(*v1.Node))
		}
		changed(node, all)
	}
	nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    call,
		UpdateFunc: func(_, object interface{}) { call(object) },
		DeleteFunc: call,
	})
	factory.Start(ctx.Done())
}
