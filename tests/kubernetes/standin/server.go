package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// startServer brings up the control plane and, beside it, this machine's node.
// It returns when the server is ready.
func startServer(ctx context.Context, config *Config, parts *parts, notify notifier) error {
	certs, err := loadServerCerts(config)
	if err != nil {
		return err
	}
	tokens, err := loadServerTokens(config, certs.serverCA.pem)
	if err != nil {
		return err
	}
	nodes, err := openRegistry(config)
	if err != nil {
		return err
	}

	url := "https://" + net.JoinHostPort(config.localAddress(), strconv.Itoa(config.Port))
	admin := credentials{server: url, ca: certs.path("server-ca.crt"), client: certs.path("client-admin")}
	adminConfig := filepath.Join(config.DataDir, "server/cred/admin.kubeconfig")
	if err := admin.writeKubeconfig(adminConfig); err != nil {
		return err
	}
	schedulerConfig := filepath.Join(config.DataDir, "server/cred/scheduler.kubeconfig")
	if err := (credentials{admin.server, admin.ca, certs.path("client-scheduler")}).writeKubeconfig(schedulerConfig); err != nil {
		return err
	}
	manifests := filepath.Join(config.DataDir, "server/manifests")
	if err := os.MkdirAll(manifests, 0700); err != nil {
		return err
	}

	// The node's own slow start (containerd, images) overlaps with the control plane's.
	parts.run("node", func() error {
		return runNode(ctx, config, parts, url, tokens.server, nil)
	})

	if err := startDatastore(config, certs, parts); err != nil {
		return err
	}
	// The restored datastore is in use: another restore is another decision.
	if err := os.Remove(resetFlag(config)); err != nil && !os.IsNotExist(err) {
		return err
	}
	flags, err := apiserverFlags(config, certs)
	if err != nil {
		return err
	}
	door := &frontDoor{certs: certs, tokens: tokens, nodes: nodes, config: config}
	parts.run("kube-apiserver", func() error { return runAPIServer(ctx, flags, door) })
	client, err := newClient(adminConfig)
	if err != nil {
		return err
	}
	if err := waitReady(ctx, client); err != nil {
		return err
	}

	parts.run("kube-controller-manager", func() error {
		return runController(config, certs, adminConfig)
	})
	parts.run("kube-scheduler", func() error {
		command := scheduler.NewSchedulerCommand()
		command.SetArgs(append([]string{
			"--kubeconfig=" + schedulerConfig,
			"--authentication-kubeconfig=" + schedulerConfig,
			"--authorization-kubeconfig=" + schedulerConfig,
			"--bind-address=127.0.0.1",
			"--port=0",
			"--leader-elect=false",
		}, componentFlags(config.SchedulerArgs)...))
		return command.Execute()
	})
	settleNodes(ctx, client, nodes)
	if err := writeUserKubeconfig(config, admin); err != nil {
		return err
	}
	startManifests(ctx, adminConfig, manifests)
	if err := startSnapshots(config); err != nil {
		return err
	}
	logf("server is ready")
	notify.send("READY=1")
	return nil
}

// apiserverFlags leave out what a cluster of a few pods does not need and what
// costs most of the start: priority and fairness, and beta APIs that no
// component and hardly any person asks for.
func apiserverFlags(config *Config, certs *serverCerts) ([]string, error) {
	flags := []string{
		"--etcd-servers=" + etcdEndpoint,
		"--bind-address=" + config.BindAddress,
		"--advertise-address=" + config.AdvertiseAddress,
		"--secure-port=" + strconv.Itoa(config.Port),
		"--tls-cert-file=" + certs.path("serving-kube-apiserver.crt"),
		"--tls-private-key-file=" + certs.path("serving-kube-apiserver.key"),
		"--client-ca-file=" + certs.path("client-ca.crt"),
		"--anonymous-auth=false",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-cluster-ip-range=" + config.ServiceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + certs.path("service.key"),
		"--service-account-signing-key-file=" + certs.path("service.key"),
		"--kubelet-certificate-authority=" + certs.path("server-ca.crt"),
		"--kubelet-client-certificate=" + certs.path("client-kube-apiserver.crt"),
		"--kubelet-client-key=" + certs.path("client-kube-apiserver.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--requestheader-client-ca-file=" + certs.path("request-header-ca.crt"),
		"--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + certs.path("client-auth-proxy.crt"),
		"--proxy-client-key-file=" + certs.path("client-auth-proxy.key"),
		"--profiling=false",
		"--enable-priority-and-fairness=false",
		"--runtime-config=api/beta=false,batch/v1beta1=true,discovery.k8s.io/v1beta1=true,policy/v1beta1=true",
	}
	encryption, err := encryptionConfig(config)
	if err != nil {
		return nil, err
	}
	if encryption != "" {
		flags = append(flags, "--encryption-provider-config="+encryption)
	}
	return append(flags, componentFlags(config.APIServerArgs)...), nil
}

// runAPIServer does what the upstream command does, with our own paths in
// front of the apiserver's chain. The command itself cannot be used: like the
// kubelet's, it claims the process's signals.
func runAPIServer(ctx context.Context, flags []string, door *frontDoor) error {
	options := apiserveroptions.NewServerRunOptions()
	set := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, named := range options.Flags().FlagSets {
		set.AddFlagSet(named)
	}
	if err := set.Parse(flags); err != nil {
		return err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	completed, err := apiserver.Complete(options)
	if err != nil {
		return err
	}
	if problems := completed.Validate(); len(problems) > 0 {
		return utilerrors.NewAggregate(problems)
	}
	server, err := apiserver.CreateServerChain(completed, ctx.Done())
	if err != nil {
		return err
	}
	handler := server.GenericAPIServer.Handler
	door.next = handler.FullHandlerChain
	handler.FullHandlerChain = door
	prepared, err := server.PrepareRun()
	if err != nil {
		return err
	}
	return prepared.Run(ctx.Done())
}

// runController starts the controllers that a person would miss. Node CIDRs
// are not among them: that allocator sleeps ten seconds first (see registry.go).
func runController(config *Config, certs *serverCerts, kubeconfig string) error {
	command := controllermanager.NewControllerManagerCommand()
	command.SetArgs(append([]string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--port=0",
		"--leader-elect=false",
		"--use-service-account-credentials=false",
		"--root-ca-file=" + certs.path("server-ca.crt"),
		"--service-account-private-key-file=" + certs.path("service.key"),
		"--allocate-node-cidrs=false",
		"--node-monitor-period=1s",
		"--profiling=false",
		"--controllers=deployment,replicaset,daemonset,statefulset,job,cronjob," +
			"endpoint,endpointslice,serviceaccount,serviceaccount-token,root-ca-cert-publisher," +
			"namespace,nodelifecycle,podgc,garbagecollector,disruption,resourcequota," +
			"clusterrole-aggregation,persistentvolume-binder,pv-protection,pvc-protection",
	}, componentFlags(config.ControllerArgs)...))
	return command.Execute()
}

// waitReady polls the apiserver. There is no deadline: whoever supervises the
// process knows how long a start may take.
func waitReady(ctx context.Context, client kubernetes.Interface) error {
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(5 * time.Second).DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// encryptionConfig writes the file that encrypts secrets at rest. Once there is
// a key it stays in use for reading, also after the setting was taken away.
func encryptionConfig(config *Config) (string, error) {
	path := filepath.Join(config.DataDir, "server/cred/encryption-config.json")
	keyPath := filepath.Join(config.DataDir, "server/cred/encryption-key")
	key, err := ioutil.ReadFile(keyPath)
	if os.IsNotExist(err) {
		if !config.SecretsEncryption {
			return "", nil
		}
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return "", err
		}
		key = []byte(base64.StdEncoding.EncodeToString(secret))
		if err := writeFile(keyPath, key, 0600); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	type object = map[string]interface{}
	providers := []object{
		{"aescbc": object{"keys": []object{{"name": "aescbckey", "secret": string(key)}}}},
		{"identity": object{}},
	}
	if !config.SecretsEncryption {
		providers[0], providers[1] = providers[1], providers[0]
	}
	text, err := json.Marshal(object{
		"kind":       "EncryptionConfiguration",
		"apiVersion": "apiserver.config.k8s.io/v1",
		"resources":  []object{{"resources": []string{"secrets"}, "providers": providers}},
	})
	if err != nil {
		return "", fmt.Errorf("secrets-encryption: %v", err)
	}
	return path, writeFile(path, text, 0600)
}
