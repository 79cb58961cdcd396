//! The section `machine`: the machine itself, its clock, logs, kernel and ways out.

use super::List;
use crate::{
    Secret,
    model::Takes,
    read::{Entries, TextOrNumber, choice, object},
};

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
    /// A certificate that issues others, and its key.
    IssuerSection {
        /// The certificate, PEM.
        cert: String = "cert", required;
        /// Its key, PKCS#8 PEM.
        key: Secret = "key", required;
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
