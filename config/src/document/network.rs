//! The section `network`: resolvers, names, the shared address, the firewall, rules of routing.

use super::{LinkSection, List};
use crate::{
    model::Takes,
    read::{Entries, TextOrNumber, choice, object},
};

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
