package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/util/iptables"
	"k8s.io/utils/exec"
)

// routeProtocol marks the routes that are ours, in the range that the kernel
// leaves to programs (rtnetlink(7)).
const routeProtocol = 75

// startNetwork gives pods their network: a bridge on each node, and a route to
// every other node's share by way of that node's address. The nodes must be
// neighbours on one link.
func startNetwork(ctx context.Context, config *Config, runtime *containerd, client kubernetes.Interface, reply *joinReply) error {
	conf, err := cniConfig(reply.PodCIDR)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(runtime.cniConf, "10-standin.conflist"), conf, 0600); err != nil {
		return err
	}
	// What leaves the cluster takes the node's address; what stays inside keeps its own.
	rules := iptables.New(exec.New(), iptables.ProtocolIPv4)
	if _, err := rules.EnsureRule(iptables.Append, iptables.TableNAT, iptables.ChainPostrouting,
		"-s", reply.ClusterCIDR, "!", "-d", reply.ClusterCIDR,
		"-m", "comment", "--comment", programName+" pods", "-j", "MASQUERADE"); err != nil {
		return fmt.Errorf("masquerade pods: %v", err)
	}
	onNodes(ctx, client, func(_ *v1.Node, all []*v1.Node) {
		if err := syncRoutes(config.NodeName, all); err != nil {
			logf("routes to other nodes' pods: %v", err)
		}
	})
	return nil
}

func cniConfig(podCIDR string) ([]byte, error) {
	type object = map[string]interface{}
	return json.MarshalIndent(object{
		"cniVersion": "0.4.0",
		"name":       "standin",
		"plugins": []object{
			{
				"type":             "bridge",
				"bridge":           "cni0",
				"isDefaultGateway": true,
				"hairpinMode":      true,
				"ipam": object{
					"type":   "host-local",
					"ranges": [][]object{{{"subnet": podCIDR}}},
					// Leases of a boot that is over mean nothing.
					"dataDir": runDir + "/cni",
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true},
		},
	}, "", "  ")
}

// wantedRoutes maps each other node's pod network to that node's address.
func wantedRoutes(own string, nodes []*v1.Node) map[string]net.IP {
	wanted := map[string]net.IP{}
	for _, node := range nodes {
		if node.Name == own || node.Spec.PodCIDR == "" {
			continue
		}
		for _, address := range node.Status.Addresses {
			if ip := net.ParseIP(address.Address); address.Type == v1.NodeInternalIP && ip.To4() != nil {
				wanted[node.Spec.PodCIDR] = ip
			}
		}
	}
	return wanted
}

// syncRoutes makes our routes in the main table those that are wanted.
func syncRoutes(own string, nodes []*v1.Node) error {
	wanted := wantedRoutes(own, nodes)
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return err
	}
	for i := range routes {
		route := &routes[i]
		if gateway, ok := wanted[route.Dst.String()]; ok && gateway.Equal(route.Gw) {
			delete(wanted, route.Dst.String())
		} else if !ok {
			if err := netlink.RouteDel(route); err != nil {
				return fmt.Errorf("delete %s: %v", route.Dst, err)
			}
		}
	}
	for cidr, gateway := range wanted {
		_, network, err := net.ParseCIDR(cidr)
		if err != nil {
			return err
		}
		route := &netlink.Route{Dst: network, Gw: gateway, Protocol: routeProtocol}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("%s via %s: %v", cidr, gateway, err)
		}
		logf("pods in %s are reached by %s", cidr, gateway)
	}
	return nil
}
