package main

import (
	"context"
	"io/ioutil"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const (
	// nodePasswordPath must outlive everything else of the node: without it the
	// node cannot take its name again.
	nodePasswordPath = "/etc/rancher/node/password"
	kubeletDir       = "/var/lib/kubelet"
)

// startAgent joins a server and is ready when the server's apiserver answers
// to the kubelet's certificate.
func startAgent(ctx context.Context, config *Config, parts *parts, notify notifier) error {
	secret, err := parseToken(config.Token)
	if err != nil {
		return err
	}
	server, err := url.Parse(config.Server)
	if err != nil || server.Scheme != "https" || server.Host == "" {
		return errRefused{"server: want a URL such as https://10.0.0.1:6443"}
	}
	parts.run("node", func() error {
		return runNode(ctx, config, parts, "https://"+server.Host, secret, func() {
			logf("agent is ready")
			notify.send("READY=1")
		})
	})
	return nil
}

// runNode runs containerd, the kubelet and kube-proxy. joined is called when
// the apiserver has answered to the node's own certificate.
func runNode(ctx context.Context, config *Config, parts *parts, server string, secret token, joined func()) error {
	dir := filepath.Join(config.DataDir, "agent")
	runtime := newContainerd(config, dir)
	ended, err := runtime.start(parts)
	if err != nil {
		return err
	}
	imported := make(chan error, 1)
	go func() { imported <- runtime.importImages(ctx) }()

	reply, err := joinServer(ctx, config, server, secret, dir)
	if err != nil {
		return err
	}
	ca := filepath.Join(dir, "server-ca.crt")
	kubeletConfig := filepath.Join(dir, "kubelet.kubeconfig")
	if err := (credentials{server, ca, filepath.Join(dir, clientKubelet)}).writeKubeconfig(kubeletConfig); err != nil {
		return err
	}
	proxyConfig := filepath.Join(dir, "kubeproxy.kubeconfig")
	if err := (credentials{server, ca, filepath.Join(dir, clientKubeProxy)}).writeKubeconfig(proxyConfig); err != nil {
		return err
	}
	client, err := newClient(kubeletConfig)
	if err != nil {
		return err
	}
	if err := waitReady(ctx, client); err != nil {
		return err
	}
	if joined != nil {
		joined()
	}
	if err := startNetwork(ctx, config, runtime, client, reply); err != nil {
		return err
	}
	// Images are there before the kubelet asks for them: it would back off for 10 s.
	if err := <-imported; err != nil {
		return err
	}

	parts.run("kubelet", func() error {
		command := kubelet.NewKubeletCommand()
		command.SetArgs(kubeletFlags(config, reply, runtime.socket, dir, kubeletConfig))
		return command.Execute()
	})
	parts.run("kube-proxy", func() error {
		command := proxy.NewProxyCommand()
		command.SetArgs(append([]string{
			"--kubeconfig=" + proxyConfig,
			"--proxy-mode=iptables",
			"--cluster-cidr=" + reply.ClusterCIDR,
			"--hostname-override=" + config.NodeName,
			"--bind-address=" + config.NodeIP,
			"--healthz-bind-address=127.0.0.1:10256",
			"--metrics-bind-address=127.0.0.1:10249",
			// The kernel's own conntrack limits are right, and /proc/sys may be read-only.
			"--conntrack-max-per-core=0",
			"--conntrack-tcp-timeout-established=0",
			"--conntrack-tcp-timeout-close-wait=0",
		}, componentFlags(config.ProxyArgs)...))
		return command.Execute()
	})
	return <-ended
}

func kubeletFlags(config *Config, reply *joinReply, socket, dir, kubeconfig string) []string {
	resolvConf := "/etc/resolv.conf"
	if _, err := os.Stat(resolvConf); err != nil {
		resolvConf = ""
	}
	flags := []string{
		"--kubeconfig=" + kubeconfig,
		"--hostname-override=" + config.NodeName,
		"--node-ip=" + config.NodeIP,
		"--root-dir=" + kubeletDir,
		"--cert-dir=" + filepath.Join(kubeletDir, "pki"),
		"--volume-plugin-dir=" + filepath.Join(kubeletDir, "volumeplugins"),
		"--pod-manifest-path=" + filepath.Join(dir, "pod-manifests"),
		"--container-runtime=remote",
		"--container-runtime-endpoint=unix://" + socket,
		"--containerd=" + socket,
		// Containers get /kubepods, outside of this process's own cgroup: stopping
		// the service does not stop them.
		"--cgroup-driver=cgroupfs",
		"--fail-swap-on=false",
		"--resolv-conf=" + resolvConf,
		"--cluster-domain=cluster.local",
		"--anonymous-auth=false",
		"--authorization-mode=Webhook",
		"--authentication-token-webhook=true",
		"--client-ca-file=" + filepath.Join(dir, "client-ca.crt"),
		"--tls-cert-file=" + filepath.Join(dir, servingKubelet+".crt"),
		"--tls-private-key-file=" + filepath.Join(dir, servingKubelet+".key"),
		"--healthz-bind-address=127.0.0.1",
		"--read-only-port=0",
		"--serialize-image-pulls=false",
		// Imported images cannot be pulled again: never collect them.
		"--image-gc-high-threshold=100",
		"--eviction-hard=imagefs.available<5%,nodefs.available<5%",
		// Also the timeout of the kubelet's requests: 2 s is too short for a slow machine.
		"--node-status-update-frequency=4s",
	}
	if reply.ClusterDNS != "" {
		flags = append(flags, "--cluster-dns="+reply.ClusterDNS)
	}
	if len(config.NodeLabels) > 0 {
		flags = append(flags, "--node-labels="+strings.Join(config.NodeLabels, ","))
	}
	if len(config.NodeTaints) > 0 {
		flags = append(flags, "--register-with-taints="+strings.Join(config.NodeTaints, ","))
	}
	if config.ProtectKernelDefaults {
		flags = append(flags, "--protect-kernel-defaults=true")
	}
	return append(flags, componentFlags(config.KubeletArgs)...)
}

// nodePassword reads the password that keeps other machines from joining under
// this node's name, or makes one.
func nodePassword() (string, error) {
	text, err := ioutil.ReadFile(nodePasswordPath)
	if err == nil && len(strings.TrimSpace(string(text))) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	password, err := randomHex(16)
	if err != nil {
		return "", err
	}
	return password, writeFile(nodePasswordPath, []byte(password+"\n"), 0600)
}
