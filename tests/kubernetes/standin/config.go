package main

import (
	"fmt"
	"io/ioutil"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

const defaultConfigPath = "/etc/rancher/k3s/config.yaml"

// Config is what K3s's configuration file says, with every default resolved.
// Errors about it name keys, never values: some of the values are secrets.
type Config struct {
	DataDir    string
	Token      string
	TokenFile  string
	AgentToken string
	Server     string

	NodeIP     string
	NodeName   string
	NodeLabels []string
	NodeTaints []string

	TLSSANs          []string
	BindAddress      string
	AdvertiseAddress string
	Port             int
	ClusterCIDR      string
	ServiceCIDR      string
	ClusterDNS       string
	Disable          []string // none of what K3s adds is there in the first place

	Kubeconfig        string
	KubeconfigMode    string
	ClusterInit       bool // true or not, the datastore is etcd
	SecretsEncryption bool
	EmbeddedRegistry  bool

	ProtectKernelDefaults bool
	KubeletArgs           []string
	APIServerArgs         []string
	ControllerArgs        []string
	SchedulerArgs         []string
	ProxyArgs             []string

	SnapshotsDisabled bool
	SnapshotDir       string
	SnapshotName      string
	SnapshotRetention int
	SnapshotSchedule  string
	SnapshotCompress  bool
}

// keys maps each key of the file to the field that it fills.
func (c *Config) keys() map[string]interface{} {
	return map[string]interface{}{
		"data-dir":    &c.DataDir,
		"token":       &c.Token,
		"token-file":  &c.TokenFile,
		"agent-token": &c.AgentToken,
		"server":      &c.Server,

		"node-ip":    &c.NodeIP,
		"node-name":  &c.NodeName,
		"node-label": &c.NodeLabels,
		"node-taint": &c.NodeTaints,

		"tls-san":           &c.TLSSANs,
		"bind-address":      &c.BindAddress,
		"advertise-address": &c.AdvertiseAddress,
		"https-listen-port": &c.Port,
		"cluster-cidr":      &c.ClusterCIDR,
		"service-cidr":      &c.ServiceCIDR,
		"cluster-dns":       &c.ClusterDNS,
		"disable":           &c.Disable,

		"write-kubeconfig":      &c.Kubeconfig,
		"write-kubeconfig-mode": &c.KubeconfigMode,
		"cluster-init":          &c.ClusterInit,
		"secrets-encryption":    &c.SecretsEncryption,
		"embedded-registry":     &c.EmbeddedRegistry,

		"protect-kernel-defaults":     &c.ProtectKernelDefaults,
		"kubelet-arg":                 &c.KubeletArgs,
		"kube-apiserver-arg":          &c.APIServerArgs,
		"kube-controller-manager-arg": &c.ControllerArgs,
		"kube-scheduler-arg":          &c.SchedulerArgs,
		"kube-proxy-arg":              &c.ProxyArgs,

		"etcd-disable-snapshots":      &c.SnapshotsDisabled,
		"etcd-snapshot-dir":           &c.SnapshotDir,
		"etcd-snapshot-name":          &c.SnapshotName,
		"etcd-snapshot-retention":     &c.SnapshotRetention,
		"etcd-snapshot-schedule-cron": &c.SnapshotSchedule,
		"etcd-snapshot-compress":      &c.SnapshotCompress,
	}
}

func configPath() string {
	if path := os.Getenv("K3S_CONFIG_FILE"); path != "" {
		return path
	}
	return defaultConfigPath
}

// readConfig reads the file and then the drop-ins beside it. No file at all is
// an empty configuration, as with K3s.
func readConfig() (*Config, error) {
	config := &Config{
		DataDir:           envOr("K3S_DATA_DIR", "/var/lib/rancher/k3s"),
		Token:             os.Getenv("K3S_TOKEN"),
		Server:            os.Getenv("K3S_URL"),
		BindAddress:       "0.0.0.0",
		Port:              6443,
		ClusterCIDR:       "10.42.0.0/16",
		ServiceCIDR:       "10.43.0.0/16",
		Kubeconfig:        "/etc/rancher/k3s/k3s.yaml",
		KubeconfigMode:    "0600",
		SnapshotName:      "etcd-snapshot",
		SnapshotRetention: 5,
		SnapshotSchedule:  "0 */12 * * *",
	}
	os.Unsetenv("K3S_TOKEN")

	path := configPath()
	dropIns, err := filepath.Glob(path + ".d/*.yaml")
	if err != nil {
		return nil, err
	}
	sort.Strings(dropIns)
	for _, file := range append([]string{path}, dropIns...) {
		text, err := ioutil.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := config.merge(text); err != nil {
			return nil, fmt.Errorf("%s: %v", file, err)
		}
	}
	if config.SnapshotDir == "" {
		config.SnapshotDir = filepath.Join(config.DataDir, "server/db/snapshots")
	}
	return config, nil
}

// merge applies one file. A key replaces what an earlier file said, and
// "key+" adds to it.
func (c *Config) merge(text []byte) error {
	var document map[string]interface{}
	if err := yaml.UnmarshalStrict(text, &document); err != nil {
		return fmt.Errorf("not valid YAML: %v", withoutValues(err))
	}
	keys := c.keys()
	written := make([]string, 0, len(document))
	for key := range document {
		written = append(written, key)
	}
	// "key" sorts before "key+".
	sort.Strings(written)
	for _, key := range written {
		name := strings.TrimSuffix(key, "+")
		field, known := keys[name]
		if !known {
			return fmt.Errorf("unknown key %q", key)
		}
		if err := set(field, document[key], name != key); err != nil {
			return fmt.Errorf("%s: %v", key, err)
		}
	}
	return nil
}

// withoutValues puts a YAML error on one line and cuts it off before the first
// text that it quotes from the document.
func withoutValues(err error) string {
	line := strings.Join(strings.Fields(err.Error()), " ")
	return strings.TrimSpace(strings.SplitN(line, "`", 2)[0])
}

func set(field, value interface{}, add bool) error {
	list, isList := field.(*[]string)
	if add && !isList {
		return fmt.Errorf("only a list can be added to")
	}
	switch field := field.(type) {
	case *string:
		text, ok := scalar(value)
		if !ok {
			return fmt.Errorf("want one value")
		}
		*field = text
	case *bool:
		text, _ := scalar(value)
		flag, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("want true or false")
		}
		*field = flag
	case *int:
		text, _ := scalar(value)
		number, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want a number")
		}
		*field = number
	case *[]string:
		var items []string
		if text, ok := scalar(value); ok {
			items = []string{text}
		} else if elements, ok := value.([]interface{}); ok {
			for _, element := range elements {
				text, ok := scalar(element)
				if !ok {
					return fmt.Errorf("want a list of single values")
				}
				items = append(items, text)
			}
		} else {
			return fmt.Errorf("want a list")
		}
		if add {
			items = append(*list, items...)
		}
		*field = items
	}
	return nil
}

func scalar(value interface{}) (string, bool) {
	switch value := value.(type) {
	case string:
		return value, true
	case bool:
		return strconv.FormatBool(value), true
	case float64:
		return strconv.FormatFloat(value, 'f', -1, 64), true
	}
	return "", false
}

// loadConfig reads the configuration of one role, fills in what depends on the
// machine, and refuses what cannot be honoured.
func loadConfig(role string) (*Config, error) {
	c, err := readConfig()
	if err != nil {
		return nil, err
	}
	if c.TokenFile != "" {
		text, err := ioutil.ReadFile(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token-file: %v", err)
		}
		c.Token = strings.TrimSpace(string(text))
	}
	if c.NodeName == "" {
		if c.NodeName, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	c.NodeName = strings.ToLower(c.NodeName)
	if problems := validation.IsDNS1123Subdomain(c.NodeName); len(problems) > 0 {
		return nil, fmt.Errorf("node-name: %s", problems[0])
	}
	if c.NodeIP == "" {
		ip, err := utilnet.ChooseHostInterface()
		if err != nil {
			return nil, fmt.Errorf("no default route to take the node's address from: set node-ip (%v)", err)
		}
		c.NodeIP = ip.String()
	}
	if c.AdvertiseAddress == "" {
		c.AdvertiseAddress = c.NodeIP
	}
	for key, address := range map[string]string{
		"node-ip": c.NodeIP, "advertise-address": c.AdvertiseAddress, "bind-address": c.BindAddress,
	} {
		if ip := net.ParseIP(address); ip == nil || ip.To4() == nil {
			return nil, fmt.Errorf("%s: want one IPv4 address", key)
		}
	}
	for key, network := range map[string]string{"cluster-cidr": c.ClusterCIDR, "service-cidr": c.ServiceCIDR} {
		if ip, _, err := net.ParseCIDR(network); err != nil || ip.To4() == nil {
			return nil, fmt.Errorf("%s: want one IPv4 network such as 10.42.0.0/16", key)
		}
	}
	if _, err := strconv.ParseUint(c.KubeconfigMode, 8, 9); err != nil {
		return nil, fmt.Errorf(`write-kubeconfig-mode: want a quoted octal mode such as "0600"`)
	}
	switch {
	case c.EmbeddedRegistry:
		return nil, fmt.Errorf("embedded-registry: %s has none", programName)
	case c.SnapshotCompress:
		return nil, fmt.Errorf("etcd-snapshot-compress: %s writes plain snapshots only", programName)
	case role == "agent" && c.Server == "":
		return nil, fmt.Errorf("server: an agent needs the URL of the server to join")
	case role == "agent" && c.Token == "":
		return nil, fmt.Errorf("token: an agent needs the token of the server to join")
	case role == "server" && c.Server != "":
		return nil, fmt.Errorf("server: %s has no second server, only agents join", programName)
	}
	return c, nil
}

// localAddress is where this machine reaches its own apiserver.
func (c *Config) localAddress() string {
	if c.BindAddress == "0.0.0.0" {
		return "127.0.0.1"
	}
	return c.BindAddress
}

// componentFlags turns K3s's "name=value" lists into flags.
func componentFlags(items []string) []string {
	flags := make([]string, 0, len(items))
	for _, item := range items {
		flags = append(flags, "--"+strings.TrimLeft(item, "-"))
	}
	return flags
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
