//! The modules that a machine needs beside those that its config names and the drivers of
//! its devices, each with its reason.

use keelson_config::{Machine, Role};

/// The modules of a machine that runs pods. They were found to be enough with the
/// kernel's own loading switched off, but for the last lines, which are for services
/// with several endpoints, host ports and the flannel network.
const FOR_PODS: &[(&str, &str)] = &[
    ("overlay", "the images of containers"),
    ("veth", "the links of pods"),
    ("bridge", "the network of pods"),
    ("br_netfilter", "services work between pods of one bridge"),
    ("nf_conntrack", "services"),
    ("nf_nat", "services"),
    ("nf_tables", "iptables"),
    ("nft_compat", "iptables"),
    ("nft_chain_nat", "services"),
    ("xt_tcpudp", "services"),
    ("xt_addrtype", "host ports"),
    ("xt_comment", "services"),
    ("xt_conntrack", "services"),
    ("xt_mark", "services"),
    ("xt_nat", "services"),
    ("xt_MASQUERADE", "pods reach the world"),
    ("ipt_REJECT", "services without an endpoint"),
    ("ip6t_REJECT", "services without an endpoint"),
    ("xt_statistic", "services with several endpoints"),
    ("xt_multiport", "host ports and network policies"),
    ("xt_limit", "network policies"),
    ("xt_recent", "session affinity"),
    ("xt_set", "network policies"),
    ("vxlan", "the network between machines"),
];

/// The module of swap in memory; what compresses it comes with it.
pub(super) const FOR_SWAP: &[(&str, &str)] = &[("zram", "swap in memory")];

/// What is wanted of the modules beside those that the config names, by name.
pub(super) fn needed(machine: &Machine) -> impl Iterator<Item = (&'static str, &'static str)> {
    let pods = match machine.role {
        Role::Server | Role::Agent => FOR_PODS,
        Role::None => &[],
    };
    let swap = match machine.swap {
        Some(_) => FOR_SWAP,
        None => &[],
    };
    pods.iter().chain(swap).copied()
}
