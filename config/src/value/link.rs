//! Names of links and of their drivers, and whose a link of such a name is.

use super::Wrong;
use crate::tree::quote;

/// Names that Kubernetes' network plug-ins give to links of theirs: how they begin.
pub const LINKS_OF_PODS: &[&str] = &[
    "cali",
    "cilium",
    "cni",
    "docker",
    "dummy",
    "flannel",
    "ifb",
    "kube",
    "lxc",
    "nodelocaldns",
    "tunl",
    "veth",
    "vxlan",
    "weave",
];

/// Whether a link of this name is one of the network of the pods, which only they touch.
pub fn is_of_pods(name: &str) -> bool {
    LINKS_OF_PODS.iter().any(|prefix| name.starts_with(prefix))
}

/// Names that mean something else to the kernel: directories below /proc/sys/net, a file
/// beside the links in sysfs, the links that a tunnel's module brings.
const OF_THE_KERNEL: &[&str] = &[
    "all",
    "bonding_masters",
    "default",
    "erspan0",
    "gre0",
    "gretap0",
    "ip6_vti0",
    "ip6gre0",
    "ip6tnl0",
    "ip_vti0",
    "sit0",
];

/// Whether the kernel gives such names to network cards.
pub(crate) fn is_of_a_card(name: &str) -> bool {
    ["eth", "lan", "usb", "wlan", "wwan"].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// How the name of a dummy begins: whose one is, its name does not tell.
const DUMMY: &str = "dummy";

/// A link that others are made of.
pub(crate) fn lower_link(text: &str) -> Result<String, Wrong> {
    let name = link_name(text)?;
    if is_of_pods(&name) && !name.starts_with(DUMMY) {
        return Err(Wrong::new(format!(
            "{name} is the name of a link of the network of the pods"
        ))
        .hint("only the orchestrator touches those"));
    }
    Ok(name)
}

/// The name that a link gets which is made. What is called a dummy is one: nothing comes
/// in through it, so that nobody is on guard there.
pub(crate) fn made_name(text: &str, dummy: bool) -> Result<String, Wrong> {
    let name = lower_link(text)?;
    let hint = "give it another name, bond0 or storage";
    if name.starts_with(DUMMY) && !dummy {
        return Err(Wrong::new(format!("{name} is the name of a dummy link")).hint(hint));
    }
    if OF_THE_KERNEL.contains(&name.as_str()) {
        return Err(Wrong::new(format!("{name} means something else to the kernel")).hint(hint));
    }
    if is_of_a_card(&name) {
        return Err(Wrong::new(format!(
            "{name} is a name that the kernel gives to network cards"
        ))
        .hint(hint));
    }
    Ok(name)
}

/// The kernel's name for a link: dev_valid_name() in net/core/dev.c.
pub(crate) fn link_name(text: &str) -> Result<String, Wrong> {
    if text == "lo" {
        return Err(Wrong::new("the loopback link is not configured")
            .hint("it is always up, with its own addresses"));
    }
    if text.is_empty() || text.len() > 15 {
        return Err(Wrong::new(format!(
            "a link's name has 1 to 15 characters, {} has {}",
            quote(text),
            text.len()
        )));
    }
    if text == "."
        || text == ".."
        || text
            .chars()
            .any(|c| !c.is_ascii_graphic() || "/:%".contains(c))
    {
        return Err(Wrong::new(format!(
            "{} cannot be the name of a link",
            quote(text)
        )));
    }
    Ok(text.to_owned())
}

/// The name of a kernel driver.
pub(crate) fn driver(text: &str) -> Result<String, Wrong> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || text.len() > 64 || !text.chars().all(fine) {
        return Err(
            Wrong::new(format!("{} is not the name of a driver", quote(text)))
                .hint("it looks like virtio_net"),
        );
    }
    Ok(text.to_owned())
}
