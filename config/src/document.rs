//! The config as it is written: every field that there is, its key, its type and
//! what it is for. Whether the values make sense is not judged here.

use crate::{
    Secret,
    model::Takes,
    read::{Any, Entries, Located, Read, Reader, Shape, Table, TextOrNumber, choice, object},
    tree::NodeId,
};

type List<T> = Vec<Located<T>>;

object! {
    /// One config.
    Document {
        /// The version of this form, `keelson.dev/v1alpha1`.
        api_version: String = "apiVersion", required;
        /// What it describes, `Machine`.
        kind: String = "kind", required;
        /// The machine itself.
        machine: MachineSection = "machine", required;
        /// Its links and resolvers. Default: DHCP on every Ethernet link.
        network: NetworkSection = "network";
        /// Its memory's and its disks' use beyond what it needs itself.
        storage: StorageSection = "storage";
        /// What runs on it. Must be there unless the role is `none`.
        orchestrator: OrchestratorSection = "orchestrator", takes(Takes::OrchestratorRestart);
    }
}

object! {
    /// The machine itself.
    MachineSection {
        /// Its host name. Default: the one from DHCP, or else one derived from its identity.
        hostname: String = "hostname", example("server-1"), takes(Takes::OrchestratorRestart);
        /// What it is in its cluster: a server runs the control plane and pods, an agent runs pods, and `none` runs no orchestrator.
        role: RoleWord = "role", required, takes(Takes::OrchestratorRestart);
        /// Kernel parameters, by dotted name.
        sysctls: Entries<TextOrNumber> = "sysctls", example("{vm.max_map_count: \"262144\"}");
        /// The kernel's modules. Its arguments are no field: they stand in the signed boot image.
        kernel: KernelSection = "kernel";
        /// Where its logs go, beside the machine itself.
        logging: LoggingSection = "logging";
        /// How its clock is kept.
        time: TimeSection = "time";
        /// Who may call it.
        api: ApiSection = "api", required;
        /// More CAs to trust, PEM: by the orchestrator, and where the machine fetches a release.
        trusted_cas: List<String> = "trustedCAs", takes(Takes::OrchestratorRestart);
        /// The way out of the network: for the orchestrator, and where the machine fetches a release.
        proxy: ProxySection = "proxy", takes(Takes::OrchestratorRestart);
        /// The environment of the orchestrator. Its values are not shown.
        env: Entries<Secret> = "env", example("{CONTAINERD_LOG_LEVEL: debug}"), takes(Takes::OrchestratorRestart);
        /// Where the orchestrator has its container images from.
        registries: RegistriesSection = "registries", takes(Takes::OrchestratorRestart);
        /// Files for the orchestrator's parts, below `/etc/rancher/k3s`, `/var/lib/rancher/k3s/agent/etc` or `/var/lib/rancher/k3s/agent/pod-manifests`. One that is removed here is deleted.
        files: List<FileSection> = "files", takes(Takes::OrchestratorRestart);
        /// What resets it when it hangs.
        watchdog: WatchdogSection = "watchdog";
        /// When a release that is new on it is taken for good.
        health_gate: HealthGateSection = "healthGate";
    }
}

object! {
    /// What resets a machine that hangs. It cannot be switched off.
    WatchdogSection {
        /// How long the machine may hang. Until the config is in force it is a minute; a watchdog that knows fewer times takes the nearest, see `osctl get watchdog`. From 30s to 1h. Default: 1m.
        timeout: String = "timeout", example("2m");
    }
}

object! {
    /// Where container images come from.
    RegistriesSection {
        /// What is asked in place of a registry.
        mirrors: List<MirrorSection> = "mirrors";
        /// How registries and mirrors are spoken to.
        hosts: List<RegistryHostSection> = "hosts";
    }
}

object! {
    /// What is asked in place of a registry.
    MirrorSection by "registry" {
        /// The registry, as the names of images say it; `*` is every one.
        registry: String = "registry", required, example("docker.io");
        /// The URLs that are asked, in this order, and the registry itself when all fail.
        endpoints: List<String> = "endpoints", required, example("[https://mirror.example.com]");
        /// What the mirrors call its images: regular expressions and what stands in their place, `$1` for the first group. The registry itself is asked by the old name.
        rewrites: Entries<String> = "rewrites", example("{\"^rancher/(.*)\": hub/rancher/$1}");
    }
}

object! {
    /// How a registry or a mirror is spoken to.
    RegistryHostSection by "host" {
        /// Its name or address, with the port if the URL has one.
        host: String = "host", required, example("mirror.example.com:5000");
        /// Who asks. Default: nobody, it is asked without a password.
        username: String = "username", example("puller");
        /// The password that goes with it.
        password: Secret = "password";
        /// The CAs that its certificate may chain to, PEM. Default: those of the image and `machine.trustedCAs`.
        ca: String = "ca";
        /// The certificate that is shown to it, PEM. Default: none.
        cert: String = "cert";
        /// The key of that certificate, PKCS#8 PEM.
        key: Secret = "key";
        /// Does not look at its certificate: whoever is in between can hand out any image. Default: false.
        insecure: bool = "insecure";
    }
}

object! {
    /// One file. Only root can read it.
    FileSection by "path" {
        /// Where it is.
        path: String = "path", required, example("/etc/rancher/k3s/audit.yaml");
        /// What is in it; it is not shown.
        content: Secret = "content", required;
    }
}

choice! {
    /// What a machine is in its cluster.
    RoleWord {
        "server" => Server,
        "agent" => Agent,
        "none" => None,
    }
}

object! {
    /// What the kernel is told beside its parameters.
    KernelSection {
        /// Modules to load, beside those that the machine loads by itself. One that is removed stays until the next reboot.
        modules: List<ModuleSection> = "modules", example("[{name: nf_conntrack, parameters: {hashsize: 65536}}]");
    }
}

object! {
    /// One kernel module.
    ModuleSection by "name" {
        /// Its name; `-` and `_` are the same.
        name: String = "name", required, example("zram");
        /// What it is loaded with. Where it is loaded already, what the kernel lets be changed is changed at once; for the rest the machine is rebooted.
        parameters: Entries<TextOrNumber> = "parameters", example("{hashsize: 65536}"), takes(Takes::Reboot);
    }
}

object! {
    /// Where logs go.
    LoggingSection {
        /// Servers that get every line of the kernel's log and of the services' logs.
        forward: List<ForwardSection> = "forward", example("[{url: \"tcp://10.0.0.9:5170\"}]");
    }
}

object! {
    /// A server that gets the logs, one JSON object a line: `time`, `node`, `source`, `level` where it is known, `message`.
    ForwardSection by "url" {
        /// Where it listens: `tcp://host:port`, `udp://host:port` or, with TLS, `tls://host:port`. The image's CAs and machine.trustedCAs are trusted; machine.proxy is not gone through.
        url: String = "url", required, example("tls://logs.example.com:6514");
        /// What every line has besides. It is not secret.
        fields: Entries<TextOrNumber> = "fields", example("{cluster: shop-7}");
    }
}

object! {
    /// How the clock is kept.
    TimeSection {
        /// NTP servers, names or addresses. Default: four of pool.ntp.org. An empty list sets no clock.
        servers: List<String> = "servers", example("[ntp1.example.com, ntp2.example.com]");
        /// How long the orchestrator waits for the first answer of a server, from when the machine has an address. Then it starts with the time there is. Default: 30s.
        boot_timeout: String = "bootTimeout", example("5m");
    }
}

object! {
    /// When a release on trial is good. Until then a reboot goes back to the one before.
    HealthGateSection {
        /// How long after the boot it may take. Default: 10m.
        deadline: String = "deadline", example("20m");
        /// How long all health checks must hold without a break. Default: 30s.
        stable: String = "stable", example("1m");
        /// The health checks that it does not wait for, as `osctl health` names them. Default: none, it waits for all.
        ignore: List<IgnoredCheckWord> = "ignore", example("[time]");
    }
}

choice! {
    /// A health check that a release may be taken without.
    IgnoredCheckWord {
        "network" => Network,
        "time" => Time,
        "volumes" => Volumes,
        "orchestrator" => Orchestrator,
        "orchestrator ready" => OrchestratorReady,
        "kubelet" => Kubelet,
    }
}

object! {
    /// Who may call the machine's API.
    ApiSection {
        /// The CA of client certificates, PEM. A certificate names the role of its holder: os:reader, os:operator or os:admin.
        ca: String = "ca", required;
        /// Issues the machine's own server certificate, and can issue nothing else.
        issuer: IssuerSection = "issuer", required;
        /// More names and addresses for the server certificate.
        sans: List<String> = "sans", example("[server-1.example.com]");
    }
}

object! {
    /// The way out of the network. A URL may hold a password, so it is not shown.
    ProxySection {
        /// The proxy of http:// URLs. Default: none.
        http: Secret = "http", example("http://proxy.example.com:3128");
        /// The proxy of https:// URLs. Default: none.
        https: Secret = "https", example("http://proxy.example.com:3128");
        /// Where no proxy is needed: hosts, domains, networks. The machine itself and the cluster need none.
        no: List<String> = "no", example("[.example.com, 10.0.0.0/8]");
    }
}

object! {
    /// A certificate that issues others, and its key.
    IssuerSection {
        /// The certificate, PEM.
        cert: String = "cert", required;
        /// Its key, PKCS#8 PEM.
        key: Secret = "key", required;
    }
}

object! {
    /// Links and resolvers.
    NetworkSection {
        /// The links to set up. Default: every Ethernet link, with DHCP.
        links: List<LinkSection> = "links", example("[{name: eth0, dhcp: {v4: true}}]");
        /// Resolvers, by address. Default: those from DHCP.
        nameservers: List<String> = "nameservers", example("[1.1.1.1]");
        /// The domains below which short names are looked up. Default: those from DHCP.
        search_domains: List<String> = "searchDomains", example("[example.com]");
        /// Names that no resolver is asked for: for each address its names.
        hosts: Entries<List<String>> = "hosts", example("{10.0.0.100: [k8s.example.com, k8s]}");
        /// An address that the servers of the cluster share: one of them answers to it, and another takes it over when that one ends or fails.
        virtual_address: VirtualAddressSection = "virtualAddress", takes(Takes::OrchestratorRestart);
        /// Who may reach the machine's own ports. Default: everybody. Services of the cluster are not among them, nor what pods send: that is for network policies.
        firewall: FirewallSection = "firewall";
        /// Which packets' way is looked up in which table. Rules that others made, the network of the pods above all, are never touched. Default: only what the kernel has.
        rules: List<RuleSection> = "rules", example("[{priority: 100, from: 10.9.0.0/24, table: 100}]");
    }
}

object! {
    /// An address that the servers of a cluster share.
    VirtualAddressSection {
        /// The address, in the network of one of the links, and no machine's own. What joins the cluster can be told `https://<it>:6443`.
        address: String = "address", required, example("10.0.0.100"), takes(Takes::OrchestratorRestart);
        /// The name of the link that has it. Default: the one whose network it is in.
        link: String = "link", example("eth0");
    }
}

object! {
    /// Who may reach the machine's own ports.
    FirewallSection {
        /// What is done with what no rule is about. Answers to what the machine asked, ICMP and DHCP are let in always. Default: accept.
        default: ActionWord = "default";
        /// The networks of the cluster's nodes: they may reach every port of each other.
        nodes: List<String> = "nodes", example("[10.0.0.0/24]");
        /// In this order; the first that fits counts.
        rules: List<FirewallRuleSection> = "rules", example("[{name: api, ports: [50000, 6443], from: [10.9.0.0/16]}]");
    }
}

object! {
    /// Who may reach some ports.
    FirewallRuleSection by "name" {
        /// What it is called.
        name: String = "name", required, example("api");
        /// The ports, and ranges of them.
        ports: List<TextOrNumber> = "ports", required, example("[50000, 30000-32767]");
        /// Of which protocol. Default: tcp.
        protocol: ProtocolWord = "protocol";
        /// From where: networks. Default: from everywhere.
        from: List<String> = "from", example("[10.9.0.0/16]");
        /// What is done. Default: accept.
        action: ActionWord = "action";
    }
}

choice! {
    /// What is done with a packet.
    ActionWord {
        "accept" => Accept,
        "block" => Block,
    }
}

choice! {
    /// A protocol with ports.
    ProtocolWord {
        "tcp" => Tcp,
        "udp" => Udp,
    }
}

object! {
    /// One link.
    LinkSection by "name" | "select" {
        /// The kernel's name for it, or the one that a link that is made gets.
        name: String = "name", example("eth0");
        /// Picks it by what it is, where its name may change.
        select: SelectSection = "select";
        /// Makes the link: a network of its own on another link, told apart by a number (IEEE 802.1Q).
        vlan: VlanSection = "vlan", example("{parent: eth0, id: 100}");
        /// Makes the link: several links that act as one.
        bond: BondSection = "bond", example("{links: [eth0, eth1], mode: 802.3ad}");
        /// Makes the link: a switch made of software.
        bridge: BridgeSection = "bridge", example("{links: [eth2]}");
        /// Makes the link: one without a cable, for addresses that are always there.
        dummy: DummySection = "dummy", example("{}");
        /// Makes the link: an encrypted tunnel to peers (WireGuard). It carries IP alone, so it has fixed addresses and no DHCP; what goes through it is what `routes` and the networks of `addresses` say.
        wireguard: WireguardSection = "wireguard", example("{privateKey: yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=, listenPort: 51820}");
        /// Asks for an address.
        dhcp: DhcpSection = "dhcp";
        /// Fixed addresses, each with the length of its prefix.
        addresses: List<String> = "addresses", example("[10.1.0.5/24]");
        /// The largest packet, in bytes. Default: the one from DHCP, or else the driver's. One that is removed stays until the next reboot.
        mtu: u32 = "mtu", example("9000");
        /// Fixed routes.
        routes: List<RouteSection> = "routes", example("[{to: 0.0.0.0/0, via: 10.1.0.1}]");
    }
}

object! {
    /// Picks a link; every key that is there must match.
    SelectSection {
        /// Its permanent hardware address.
        mac: String = "mac", example("52:54:00:12:34:56");
        /// The kernel driver that serves it.
        driver: String = "driver", example("virtio_net");
    }
}

object! {
    /// A network of its own on another link. The link is made, and goes with its entry.
    VlanSection {
        /// The link that carries it, by name. One that has no entry of its own is only switched on.
        parent: String = "parent", required, example("eth0");
        /// Its number, 1 to 4094. No other VLAN of the parent has it.
        id: u32 = "id", required, example("100");
    }
}

object! {
    /// Several links that act as one. The link is made, and goes with its entry; another mode makes it anew.
    BondSection {
        /// The links that it is made of, by name. They have no addresses of their own, and its MTU.
        links: List<String> = "links", required, example("[eth0, eth1]");
        /// How they share the work. `active-backup`, `balance-tlb` and `balance-alb` ask nothing of the switch; the others need one that is set up for it. Default: active-backup.
        mode: BondModeWord = "mode";
        /// How often it looks whether they have carrier, in milliseconds. Default: 100.
        miimon: u32 = "miimon", example("100");
        /// With 802.3ad: how often the switch is asked to say that it is there, every 30 seconds or every second. Another one makes the bond anew. Default: slow.
        lacp_rate: LacpRateWord = "lacpRate", example("fast");
        /// With 802.3ad, balance-xor and balance-tlb: what of a packet says which link it takes. `layer3+4` spreads the connections of two machines too. Default: layer2.
        xmit_hash_policy: XmitHashPolicyWord = "xmitHashPolicy", example("layer3+4");
    }
}

choice! {
    /// How often the other end of a bond says that it is there.
    LacpRateWord {
        "slow" => Slow,
        "fast" => Fast,
    }
}

choice! {
    /// What of a packet says which link of a bond it takes.
    XmitHashPolicyWord {
        "layer2" => Layer2,
        "layer2+3" => Layer23,
        "layer3+4" => Layer34,
        "encap2+3" => Encap23,
        "encap3+4" => Encap34,
        "vlan+srcmac" => VlanSrcMac,
    }
}

choice! {
    /// How the links of a bond share the work.
    BondModeWord {
        "balance-rr" => BalanceRr,
        "active-backup" => ActiveBackup,
        "balance-xor" => BalanceXor,
        "broadcast" => Broadcast,
        "802.3ad" => Ieee8023Ad,
        "balance-tlb" => BalanceTlb,
        "balance-alb" => BalanceAlb,
    }
}

object! {
    /// A switch made of software. The link is made, and goes with its entry.
    BridgeSection {
        /// Its ports, by name; they have no addresses of their own. What others connect to it stays. Default: none.
        links: List<String> = "links", example("[eth2]");
        /// Finds loops between switches and breaks them (IEEE 802.1D); a port then waits half a minute before it works. Default: false.
        stp: bool = "stp";
    }
}

/// A link without a cable: nothing can be said of it.
#[derive(Debug)]
pub(crate) struct DummySection;

impl Read for DummySection {
    const SHAPE: &'static Shape = &Shape::Object(&Table {
        docs: "A link without a cable. It is made, and goes with its entry.",
        by: &[],
        fields: &[],
    });

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let Shape::Object(table) = Self::SHAPE else {
            return None;
        };
        reader.object(at, table).map(|_| DummySection)
    }
}

object! {
    /// An encrypted tunnel to peers. The link is made, and goes with its entry.
    WireguardSection {
        /// The key that the link is known by, as `wg genkey` prints it. Its public half is shown by `osctl get link`.
        private_key: Secret = "privateKey", required;
        /// The UDP port on which it hears its peers. Default: the kernel takes a free one. One that is removed stays until the next reboot.
        listen_port: u32 = "listenPort", example("51820");
        /// Marks the packets that the tunnel itself sends, for `network.rules`. Default: none.
        fw_mark: u32 = "fwMark", example("51820");
        /// Who is at the other ends. Default: nobody.
        peers: List<PeerSection> = "peers";
    }
}

object! {
    /// The other end of a tunnel.
    PeerSection by "publicKey" {
        /// The key that it is known by, as `wg pubkey` prints it.
        public_key: String = "publicKey", required, example("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=");
        /// One more secret that only the two ends know, as `wg genpsk` prints it. Default: none.
        preshared_key: Secret = "presharedKey";
        /// Where it is: an address and a UDP port. One that moves is followed; one that falls silent is looked for here again. Default: it comes by itself.
        endpoint: String = "endpoint", example("192.0.2.7:51820");
        /// The networks behind it: what is sent to it, and what is taken from it. A route is not made of them.
        allowed_ips: List<String> = "allowedIPs", required, example("[10.8.0.2/32, 10.20.0.0/16]");
        /// Every how many seconds it hears something even if there is nothing to say, which keeps the ways through NAT open: 1 to 65535. Default: never.
        persistent_keepalive: u32 = "persistentKeepalive", example("25");
    }
}

object! {
    /// What to ask for by DHCP.
    DhcpSection {
        /// Asks for an IPv4 address. Default: false.
        v4: bool = "v4";
        /// Asks for an IPv6 address by DHCPv6. The default route comes from router advertisements, which the link then hears even while the machine forwards packets, as it does for pods. Default: false.
        v6: bool = "v6";
        /// The metric of the lease's routes, and of the default route of IPv6; lower wins. Default: 1025, and one more for each link before it; 1024 for IPv6.
        route_metric: u32 = "routeMetric", example("2000");
        /// Takes the routes of the lease, the default route among them; with `v6` the default route that routers advertise. Default: true.
        use_routes: bool = "useRoutes";
        /// Takes the resolvers and domains of the leases, where `network` names none. Default: true.
        use_nameservers: bool = "useNameservers";
        /// Takes the name that the DHCPv4 server has for the machine, where `machine.hostname` is none. Default: true.
        use_hostname: bool = "useHostname";
    }
}

object! {
    /// One route.
    RouteSection by "to" {
        /// Where it leads: a network.
        to: String = "to", required, example("10.2.0.0/16");
        /// The gateway. Default: none, the network is on the link.
        via: String = "via", example("10.1.0.1");
        /// Lower wins. Default: 1024.
        metric: u32 = "metric";
        /// The table that it is in, for `network.rules` to lead to. Default: 254, the main one.
        table: u32 = "table", example("100");
    }
}

object! {
    /// Looks up the way of some packets in a table of its own. All that is said of a packet must fit; a rule that names no network is for IPv4 and IPv6.
    RuleSection by "priority" {
        /// Its place among the rules, 1 to 32765; the lower comes first.
        priority: u32 = "priority", required, example("100");
        /// Packets from this network. Default: from anywhere.
        from: String = "from", example("10.9.0.0/24");
        /// Packets to this network. Default: to anywhere.
        to: String = "to", example("10.20.0.0/16");
        /// Packets with this mark. Default: with any, or none.
        fw_mark: u32 = "fwMark", example("51820");
        /// Packets that came in by this link; `lo` means what the machine itself sends. Default: by any.
        iif: String = "iif", example("eth1");
        /// The table that they are looked up in: that of a route, or 254, the main one. What it does not know the next rule is asked for.
        table: u32 = "table", required, example("100");
    }
}

object! {
    /// What memory and disks are used for.
    StorageSection {
        /// Swap. Default: none.
        swap: SwapSection = "swap", example("{zram: {size: 25%}}");
        /// Volumes for workloads beside `/var`, each a partition of another disk. Default: none.
        volumes: List<VolumeSection> = "volumes";
    }
}

object! {
    /// A file system for workloads, ext4, at `/var/mnt/` and its name. Its partition is made where there is none of its name, on a disk that is empty or has a GPT and room. What is there is never deleted: neither when the volume is removed here, nor to make room for it.
    VolumeSection by "name" {
        /// What it is called: at most 16 small letters, digits and hyphens. Its partition is `KEELSON-` and this name.
        name: String = "name", required, example("longhorn");
        /// The disk that it is on. Exactly one must match, and never the one that holds the system.
        disk: DiskSection = "disk", required, example("{transport: nvme, size: \">= 100Gi\"}");
        /// How large its partition is made. One that is there keeps its size. Default: all that is free in one piece.
        size: String = "size", example("100Gi");
    }
}

object! {
    /// What a disk is told from others by, as `osctl get disks` shows it: all that is given must be so. In texts, `*` stands for any letters, or none.
    DiskSection {
        /// What its maker calls it.
        model: String = "model", example("Samsung SSD 980 *");
        /// Its serial number.
        serial: String = "serial", example("S64DNL0T712345");
        /// Its World Wide Identifier.
        wwid: String = "wwid", example("eui.0025385c21b12345");
        /// How it is connected.
        transport: TransportWord = "transport", example("nvme");
        /// How large it is: at least (`>=`) or at most (`<=`) so much.
        size: String = "size", example("\">= 100Gi\"");
    }
}

choice! {
    /// How a disk is connected.
    TransportWord {
        "nvme" => Nvme,
        "sata" => Sata,
        "sas" => Sas,
        "scsi" => Scsi,
        "usb" => Usb,
        "mmc" => Mmc,
        "virtio" => Virtio,
        "xen" => Xen,
        "hyperv" => Hyperv,
        "iscsi" => Iscsi,
    }
}

object! {
    /// Where memory goes that is needed and not used just now.
    SwapSection {
        /// Compressed, in memory itself.
        zram: ZramSection = "zram", required, example("{}");
        /// Whether pods may be swapped out: those of the class Burstable, each by its share of the memory (the kubelet's LimitedSwap). Default: false, only what runs on the machine beside the pods is.
        pods: bool = "pods", takes(Takes::OrchestratorRestart);
    }
}

object! {
    /// Swap that is compressed and stays in memory. Another size or algorithm makes it anew, for which what is in it must fit into memory.
    ZramSection {
        /// How much can be swapped out, before it is compressed: a share of the memory, or a size. At most twice the memory. Default: 25%.
        size: String = "size", example("512Mi");
        /// What compresses it: `zstd` makes it smaller, `lz4` is faster. Default: zstd.
        algorithm: ZramAlgorithmWord = "algorithm";
    }
}

choice! {
    /// What compresses swap.
    ZramAlgorithmWord {
        "zstd" => Zstd,
        "lz4" => Lz4,
    }
}

object! {
    /// What runs on the machine.
    OrchestratorSection {
        /// Its name; must be the one in the image. Default: k3s.
        name: String = "name";
        /// What joins machines to the cluster.
        token: Secret = "token", required;
        /// The server to join: an agent must, a server may.
        server: String = "server", example("https://10.0.0.1:6443");
        /// The labels of the node, given once, when it joins.
        labels: Entries<TextOrNumber> = "labels", example("{disk: ssd}");
        /// The taints of the node, given once, when it joins: `key=value:Effect` or `key:Effect`.
        taints: List<String> = "taints", example("[\"dedicated=database:NoSchedule\"]");
        /// The networks of the pods, one of each family; the same on all servers. Default: 10.42.0.0/16.
        cluster_cidrs: List<String> = "clusterCIDRs", example("[10.42.0.0/16]");
        /// The networks of the services, one of each family; the same on all servers. Default: 10.43.0.0/16.
        service_cidrs: List<String> = "serviceCIDRs", example("[10.43.0.0/16]");
        /// What connects the pods: what the orchestrator brings, or `none` where you bring your own. Default: flannel.
        cni: CniWord = "cni";
        /// The orchestrator's own parts that are not deployed.
        disable: List<String> = "disable", example("[traefik, servicelb]");
        /// More names and addresses for the certificate of the Kubernetes API.
        sans: List<String> = "sans", example("[k8s.example.com]");
        /// Arguments of the kubelet, without their dashes.
        kubelet_args: Entries<TextOrNumber> = "kubeletArgs", example("{max-pods: 200}");
        /// The database that servers keep the cluster in, where it is not their own. Default: their own etcd.
        datastore: DatastoreSection = "datastore";
        /// How the cluster's memory is copied.
        snapshots: SnapshotsSection = "snapshots";
        /// Archives of container images, which are on the machine before its pods need them.
        images: List<ImagesSection> = "images";
        /// What is deployed into the cluster. What is removed here stays in the cluster until somebody deletes it there.
        manifests: List<ManifestSection> = "manifests";
        /// Any other key of the orchestrator's own config.
        settings: Entries<Any> = "settings", example("{debug: true, disable-helm-controller: true}");
    }
}

object! {
    /// An archive of container images, as `docker save` and `ctr images export` write it. It is fetched before the orchestrator starts, and imported by it.
    ImagesSection by "url" {
        /// Where it is fetched from, by machine.proxy and with machine.trustedCAs: an http:// or https:// URL that ends with `.tar`, or with that and `.zst`, `.gz`, `.lz4` or `.bz2`.
        url: String = "url", required, example("https://files.example.com/k3s-airgap-images-amd64.tar.zst");
        /// The SHA-256 of the file, 64 hexadecimal digits. What is on the machine already is not fetched again.
        sha256: String = "sha256", required, example("0d3c…");
    }
}

object! {
    /// A database outside of the cluster.
    DatastoreSection {
        /// Its URL. It may hold a password, so it is not shown.
        endpoint: Secret = "endpoint", required, example("postgres://k3s:password@db.example.com:5432/k3s");
        /// The CAs that its certificate may chain to, PEM. Default: those of the image.
        ca: String = "ca";
        /// The certificate that is shown to it, PEM. Default: none.
        cert: String = "cert";
        /// The key of that certificate, PKCS#8 PEM.
        key: Secret = "key";
    }
}

object! {
    /// Copies of etcd.
    SnapshotsSection {
        /// When, as cron says it; `never` takes none. Default: `0 */12 * * *`.
        schedule: String = "schedule", example("0 */6 * * *");
        /// How many are kept. Default: 5.
        keep: u32 = "keep", example("10");
        /// Copies them to a bucket as well. Default: they stay on the machine.
        s3: S3Section = "s3";
    }
}

object! {
    /// A bucket that speaks S3.
    S3Section {
        /// Its name.
        bucket: String = "bucket", required, example("snapshots");
        /// Who keeps it: a host, with a port if need be. Default: s3.amazonaws.com.
        endpoint: String = "endpoint", example("s3.example.com");
        /// Where it is. Default: us-east-1.
        region: String = "region", example("eu-central-1");
        /// The folder in it. Default: none.
        folder: String = "folder", example("shop-7");
        /// Who asks. Default: the role of the machine, where its cloud gives it one.
        access_key: Secret = "accessKey";
        /// The secret that goes with it.
        secret_key: Secret = "secretKey";
    }
}

object! {
    /// Something to deploy.
    ManifestSection by "name" {
        /// What it is called here.
        name: String = "name", required, example("storage-class");
        /// Kubernetes objects as YAML; they are not shown, since they may be secrets.
        content: Secret = "content", required;
    }
}

choice! {
    /// What connects the pods of a cluster.
    CniWord {
        "flannel" => Flannel,
        "none" => None,
    }
}

/// Keys that people look for and that are not there, by path, and why.
pub(crate) const NOT_THERE: &[(&str, &str)] = &[
    ("machine.kernel.args", KERNEL_ARGUMENTS),
    ("machine.kernel.arguments", KERNEL_ARGUMENTS),
    ("machine.kernel.cmdline", KERNEL_ARGUMENTS),
    ("machine.kernel.commandLine", KERNEL_ARGUMENTS),
    ("machine.kernel.extraArgs", KERNEL_ARGUMENTS),
    ("machine.kernel.extraArguments", KERNEL_ARGUMENTS),
    ("machine.kernel.extraKernelArgs", KERNEL_ARGUMENTS),
    ("machine.kernel.parameters", "set machine.sysctls"),
    ("machine.kernel.sysctls", "set machine.sysctls"),
    (
        "machine.watchdog.device",
        "the machine finds it by itself: see `osctl get watchdog`",
    ),
    (
        "machine.watchdog.enabled",
        "it cannot be switched off: it is what brings a machine back that hangs",
    ),
    ("storage.volumes[].disk.bus", "set transport"),
    ("storage.volumes[].filesystem", "every volume is ext4"),
    ("storage.volumes[].format", "every volume is ext4"),
    (
        "storage.volumes[].mountPoint",
        "it is at /var/mnt/ and its name",
    ),
    (
        "storage.volumes[].wipe",
        "nothing is deleted from a disk: empty it elsewhere",
    ),
    (
        "storage.volumes[].disk.path",
        "the kernel may call a disk otherwise after the next boot: use what `osctl get disks` shows of it, such as its serial",
    ),
    ("storage.swap.file", SWAP_ON_DISK),
    ("storage.swap.partition", SWAP_ON_DISK),
    (
        "storage.swap.swappiness",
        "set vm.swappiness in machine.sysctls",
    ),
];

const SWAP_ON_DISK: &str =
    "there is no swap on disks, which makes a machine too slow to answer: use zram";

const KERNEL_ARGUMENTS: &str = "the kernel's arguments are in the signed boot image: whoever builds it gives them, a config cannot";
