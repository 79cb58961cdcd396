//! The config as it is written: every field that there is, its key, its type and
//! what it is for. Whether the values make sense is not judged here.

use crate::{
    Secret,
    model::Takes,
    read::{Any, Entries, Located, TextOrNumber, choice, object},
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
        /// What runs on it. Must be there unless the role is `none`.
        orchestrator: OrchestratorSection = "orchestrator", takes(Takes::OrchestratorRestart);
    }
}

object! {
    /// The machine itself.
    MachineSection {
        /// Its host name. Default: the one from DHCP, or else one derived from its identity.
        hostname: String = "hostname", example("server-1"), takes(Takes::OrchestratorRestart);
        /// What it is in its cluster.
        role: RoleWord = "role", required, takes(Takes::OrchestratorRestart);
        /// Kernel parameters, by dotted name.
        sysctls: Entries<TextOrNumber> = "sysctls", example("{vm.max_map_count: \"262144\"}");
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
        /// When a release that is new on it is taken for good.
        health_gate: HealthGateSection = "healthGate";
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
    /// How the clock is kept.
    TimeSection {
        /// NTP servers, names or addresses. Default: four of pool.ntp.org. An empty list sets no clock.
        servers: List<String> = "servers", example("[ntp1.example.com, ntp2.example.com]");
    }
}

object! {
    /// When a release on trial is good. Until then a reboot goes back to the one before.
    HealthGateSection {
        /// How long after the boot it may take. Default: 10m.
        deadline: String = "deadline", example("20m");
        /// How long all health checks must hold without a break. Default: 30s.
        stable: String = "stable", example("1m");
    }
}

object! {
    /// Who may call the machine's API.
    ApiSection {
        /// The CA of client certificates, PEM.
        ca: String = "ca", required;
        /// Issues the machine's own server certificate.
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
    }
}

object! {
    /// One link.
    LinkSection by "name" | "select" {
        /// The kernel's name for it.
        name: String = "name", example("eth0");
        /// Picks it by what it is, where its name may change.
        select: SelectSection = "select";
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
    /// What to ask for by DHCP.
    DhcpSection {
        /// Asks for an IPv4 address. Default: false.
        v4: bool = "v4";
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
        /// Any other key of the orchestrator's own config.
        settings: Entries<Any> = "settings", example("{debug: true, disable-helm-controller: true}");
    }
}

choice! {
    /// What connects the pods of a cluster.
    CniWord {
        "flannel" => Flannel,
        "none" => None,
    }
}
