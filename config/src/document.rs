//! The config as it is written: every field that there is, its key, its type and
//! what it is for. Whether the values make sense is not judged here.

use crate::{
    Secret,
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
        orchestrator: OrchestratorSection = "orchestrator";
    }
}

object! {
    /// The machine itself.
    MachineSection {
        /// Its host name. Default: the one from DHCP, or else one derived from its identity.
        hostname: String = "hostname";
        /// What it is in its cluster.
        role: RoleWord = "role", required;
        /// Kernel parameters, by dotted name.
        sysctls: Entries<TextOrNumber> = "sysctls";
        /// How its clock is kept.
        time: TimeSection = "time";
        /// Who may call it.
        api: ApiSection = "api", required;
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
        servers: List<String> = "servers";
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
        sans: List<String> = "sans";
    }
}

object! {
    /// A certificate that issues others, and its key.
    IssuerSection {
        /// PEM.
        cert: String = "cert", required;
        /// PKCS#8 PEM.
        key: Secret = "key", required;
    }
}

object! {
    /// Links and resolvers.
    NetworkSection {
        /// The links to set up. Default: every Ethernet link, with DHCP.
        links: List<LinkSection> = "links";
        /// Resolvers, by address. Default: those from DHCP.
        nameservers: List<String> = "nameservers";
    }
}

object! {
    /// One link.
    LinkSection {
        /// The kernel's name for it.
        name: String = "name";
        /// Picks it by what it is, where its name may change.
        select: SelectSection = "select";
        /// Asks for an address.
        dhcp: DhcpSection = "dhcp";
        /// Fixed addresses, each with the length of its prefix.
        addresses: List<String> = "addresses";
        /// Fixed routes.
        routes: List<RouteSection> = "routes";
    }
}

object! {
    /// Picks a link; every key that is there must match.
    SelectSection {
        /// Its permanent hardware address.
        mac: String = "mac";
        /// The kernel driver that serves it.
        driver: String = "driver";
    }
}

object! {
    /// What to ask for by DHCP.
    DhcpSection {
        /// An IPv4 address. Default: false.
        v4: bool = "v4";
    }
}

object! {
    /// One route.
    RouteSection {
        /// Where it leads: a network.
        to: String = "to", required;
        /// The gateway. Default: none, the network is on the link.
        via: String = "via";
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
        server: String = "server";
        /// Any other key of the orchestrator's own config.
        settings: Entries<Any> = "settings";
    }
}
